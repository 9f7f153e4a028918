#!/bin/sh
# Usage: submit.sh IMAGES SHARDS [OPTIONS OF SBATCH...], in a folder that all nodes see.
# Freezes the list of images, builds the engine on a node, segments it by an array job, and merges when all shards are done.
set -eu
images=$1 shards=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p logs
[ -e images.csv ] || lesioncli list "$images" --out images.csv
after=
if ! ls engines/*.json >/dev/null 2>&1; then
    engine=$(sbatch --parsable "$@" --output=logs/engine.txt --wrap "lesioncli build-engine")
    after="--dependency=afterok:$engine --kill-on-invalid-dep=yes"
fi
# shellcheck disable=SC2086 # two options, or none
array=$(sbatch --parsable "$@" $after --array="1-$shards" --export=ALL,SHARDS="$shards" "$here/segment.sh")
# A shard that failed leaves the merge without its condition: it is cancelled then, not kept waiting.
sbatch --parsable "$@" --dependency="afterok:$array" --kill-on-invalid-dep=yes --job-name=merge --output=logs/merge.txt \
    --wrap "lesioncli merge masks/"
