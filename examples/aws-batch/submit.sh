#!/bin/sh
# Usage: submit.sh, once QUEUE, REGISTRY and the file system are filled in. The merge starts after all shards succeeded.
set -eu
cd "$(dirname "$0")"
aws batch register-job-definition --cli-input-json file://job-definition.json
array=$(aws batch submit-job --cli-input-json file://segment.json --query jobId --output text)
aws batch submit-job --cli-input-json file://merge.json --depends-on "jobId=$array"
