#!/usr/bin/env bash
# The README's worked example: benchmarks/example.sh SENTEVAL_DIR SENTENCES_FILE > benchmarks/results/example-DATE.txt
set -euo pipefail
workdir=$(mktemp -d)
trap 'rm -rf "$workdir"' EXIT
sparsecse run demo --data stsb --data-dir "$1" --train-data "$2" --sparsity 0.2 --steps 200 --no-bench \
    --workdir "$workdir/run" --out "$workdir/minilm-20"
