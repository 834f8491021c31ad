#!/usr/bin/env bash
# Measure LLaMA2-7B's shape on one GPU, then run the tests that need CUDA. An H100 takes under ten minutes.
#
#   research/gpu/run.sh            writes $OUT/gpu.json, or research/results/speed/gpu.json without OUT
#   research/gpu/run.sh --tiny     runs a tiny decoder on any machine in under a minute; its figures mean nothing
#
# It installs nothing. Any Python with PyTorch, Transformers, Accelerate and pytest will do; set PYTHON to its path.
set -euo pipefail
cd "$(dirname "$0")/../.."

python=${PYTHON:-python3}
out=${OUT:-research/results/speed}
export PYTHONPATH="src:research/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
# Caches of many lengths follow each other. Otherwise they leave holes in memory that nothing fits.
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True

file=gpu.json
if [[ ${1:-} == --tiny ]]; then
    file=gpu-tiny.json
    export OMP_NUM_THREADS=1
fi
timeout 420 "$python" research/gpu/measure.py --json "$out/$file" "$@"
# pytest ends with status 5 if no test was chosen, as on a machine without CUDA.
timeout 150 "$python" -m pytest -q -m cuda tests/inject/test_cuda.py || [[ $? == 5 ]]
