#!/usr/bin/env bash
# Train on a Slurm cluster: one torchrun per machine, which starts one rank per GPU.
#
#   GPUS=16 GPUS_PER_NODE=8 tools/slurm_train.sh PARTITION JOB_NAME CONFIG [options of tools/train.py]
#
# CPUS_PER_TASK, PORT and SRUN_ARGS are read from the environment too.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG [options of tools/train.py]" >&2
    exit 2
fi
partition=$1 job=$2 config=$3
shift 3
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
export NNODES=$(((gpus + per_node - 1) / per_node)) PORT=${PORT:-29500}
here=$(cd "$(dirname "$0")" && pwd)
# each task asks Slurm which machine it is, and which one leads
# shellcheck disable=SC2016
exec srun -p "$partition" --job-name="$job" --nodes="$NNODES" --ntasks-per-node=1 \
    --gres="gpu:$per_node" --cpus-per-task="${CPUS_PER_TASK:-$((per_node * 5))}" \
    --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    bash -c 'export NODE_RANK=$SLURM_NODEID
        MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
        export MASTER_ADDR
        exec "$@"' _ "$here/dist_train.sh" "$config" "$per_node" "$@"
