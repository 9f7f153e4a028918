#!/bin/sh
# Usage: parallel.sh IMAGES SHARDS JOBS, for GNU parallel: on one machine, or with its --sshlogin on several.
# parallel.txt is its list of finished shards: the same command continues with the others.
set -eu
[ -e images.csv ] || lesioncli list "$1" --out images.csv
ls engines/*.json >/dev/null 2>&1 || lesioncli build-engine
seq "$2" | parallel --jobs "$3" --joblog parallel.txt --resume-failed --retries 2 --memfree 1G \
    lesioncli segment --from images.csv --out masks/ --shard "{}/$2" --workers 1 --max-failures 2% --quiet
lesioncli merge masks/
