#!/bin/bash
# A matrix as a Slurm array: each task measures one shard, and a last job joins their records.
#
#     sbatch --parsable docs/examples/slurm-array.sh
#     sbatch --dependency=afterany:JOB --wrap "quantgate merge --wait quantgate-JOB --expect 4 -o all.json -o all.md"
#
# A task that died is run again alone with `scontrol requeue JOB_TASK`, or on any machine with
# `pytest --quant-matrix --quant-shard 3/4 --quant-report quantgate-JOB/shard-2.json`; then merge again.
#SBATCH --job-name=quantgate
#SBATCH --array=0-3
#SBATCH --cpus-per-task=8
#SBATCH --time=02:00:00
#SBATCH --output=quantgate-%A-%a.log
# For GPUs, and a profile whose devices name CUDA0:
##SBATCH --gpus-per-task=1

set -euo pipefail
records=quantgate-$SLURM_ARRAY_JOB_ID
mkdir -p "$records"

# A cache on a file system that the nodes share is safe (its locks are files), and lets every node
# use what another has made; a node's own disk is faster.
exec pytest --quant-matrix --quant-shard auto \
    --quant-report "$records/shard-$SLURM_ARRAY_TASK_ID.json"
