#!/usr/bin/env bash
# Measure on one GPU (an H100 needs under ten minutes): LLaMA2-7B's shape, then the tests that need CUDA.
#
#   research/gpu/run.sh            writes $OUT/gpu.json, or research/results/speed/gpu.json
#   research/gpu/run.sh --tiny     the same on any machine with a tiny decoder, in under a minute; figures mean nothing
#
# Nothing is installed: any Python with PyTorch, Transformers, Accelerate and pytest will do; PYTHON names it.
set -euo pipefail
cd "$(dirname "$0")/../.."

python=${PYTHON:-python3}
out=${OUT:-research/results/speed}
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
# Caches of many lengths follow each other: without this they leave holes that nothing fits.
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True

if [[ ${1:-} == --tiny ]]; then
    file=gpu-tiny.json
    export OMP_NUM_THREADS=1
else
    file=gpu.json
fi
timeout 420 "$python" research/gpu/measure.py --json "$out/$file" "$@"
# Status 5: there is no such test, or none was chosen.
timeout 150 "$python" -m pytest -q -m cuda tests/inject/test_cuda.py || [[ $? == 5 ]]
