#!/bin/sh
#SBATCH --job-name=segment
#SBATCH --cpus-per-task=4
#SBATCH --mem=4G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=logs/segment-%a.txt
# One task per shard; submit.sh gives --array and SHARDS. `srun` passes on SIGTERM, so that rows are kept at the time limit.
# With auto/N, a part of the array can be run again: sbatch --array=3,7 --export=ALL,SHARDS=8 segment.sh
srun --ntasks=1 lesioncli segment --from images.csv --out masks/ --shard "auto/$SHARDS" --max-failures 2% \
    --grace 20 --log "logs/segment-$SLURM_ARRAY_TASK_ID.jsonl"
