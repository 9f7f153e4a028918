#!/bin/bash
# Usage: one_node.sh FOLDER, as root, with the packages slurm-wlm and munge (Debian). Runs Slurm on this machine alone:
# submit.sh on 24 drawn images, compared with one process; then a shard that is killed, and continued. Stops Slurm again.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"/{run,spool,state}
cd "$1"
work=$PWD
export SLURM_CONF=$work/slurm.conf
started=()
# shellcheck disable=SC2154 # pid
trap 'for pid in "${started[@]}"; do kill "$pid" || true; done' EXIT

start() { # name, pid file, command
    echo "starting $1"
    "${@:3}"
    for _ in $(seq 50); do [ -s "$2" ] && break; sleep 0.1; done
    started+=("$(cat "$2")")
}

cat >slurm.conf <<END
ClusterName=one
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
AuthInfo=socket=$work/run/munge.socket
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmctldPort=26817
SlurmdPort=26818
SlurmctldPidFile=$work/run/slurmctld.pid
SlurmdPidFile=$work/run/slurmd.pid
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
SchedulerParameters=sched_interval=1,batch_sched_delay=0
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES State=UP
END
dd if=/dev/urandom of=munge.key bs=1024 count=1 status=none
chmod 400 munge.key
chmod 755 "$work" run
start munged run/munged.pid munged --force --key-file="$work/munge.key" --socket="$work/run/munge.socket" \
    --pid-file="$work/run/munged.pid" --log-file="$work/munged.log" --seed-file="$work/munge.seed"
start slurmctld run/slurmctld.pid slurmctld
start slurmd run/slurmd.pid slurmd
sinfo

submit() { # folder of images, in the current folder; four shards of one core each
    "$here/submit.sh" "$1" 4 --cpus-per-task=1 --mem=900
}

wait_for() { # until no job is left
    while [ -n "$(squeue --noheader --states=all --format=%t | grep --extended-regexp '^(PD|R|CG|CF)' || true)" ]; do sleep 1; done
}

compare_with_one_process() { # folder of images
    lesioncli segment --from images.csv --out one/ --max-failures 2% --quiet
    diff --recursive --exclude=run.json masks one
    echo "merged results equal those of one process: $(find masks -name "*.png" | wc -l) masks"
}

interrupt() { # shard, command: once the shard has rows
    until [ "$(cat "masks/shards/$1-of-4/scores.csv.part" 2>/dev/null | wc -l)" -gt 5 ]; do sleep 0.1; done
    "${@:2}"
}

lesioncli demo drawn --count 24
mkdir many
for copy in $(seq 40); do
    for image in drawn/images/*; do ln "$image" "many/$copy-$(basename "$image")"; done
done

echo "== an array of four tasks, then merge"
mkdir plain && cd plain
submit ../drawn/images
wait_for
grep --with-filename . logs/*.txt
compare_with_one_process

echo "== a task that is requeued, one that is cancelled"
mkdir ../stopped && cd ../stopped && cp -r ../plain/engines .
submit ../many
array=$(squeue --noheader --name=segment --format=%F | head -1)
interrupt 2 scontrol requeue "${array}_2"
interrupt 3 scancel "${array}_3"
wait_for
grep --extended-regexp '"(start|end)"' logs/segment-[23].jsonl
[ ! -e masks/scores.csv ] || { echo "merged without shard 3"; exit 1; }
lesioncli merge masks/ && exit 1 || echo "exit code of merge: $?"
SHARDS=4 sbatch --cpus-per-task=1 --mem=900 --array=3 --export=ALL "$here/segment.sh"
wait_for
lesioncli merge masks/
compare_with_one_process
