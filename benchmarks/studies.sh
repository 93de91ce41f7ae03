#!/usr/bin/env bash
# What docs/found.md rests on: benchmarks/studies.sh SENTEVAL_DIR SENTENCES_FILE OUT. Some two hours on 2 cores; interrupted,
# the same command goes on. Then copy the JSON files to benchmarks/results/studies and run benchmarks/studies.py.
set -euo pipefail
mkdir -p "$3"
cd "$3"
study() { sparsecse study "$1" demo --data stsb --data-dir "$senteval" --threads 2 --out "$2" "${@:3}"; }
senteval=$1
repair=(--train-data "$2" --precision bfloat16)
study scorers plain --seeds 3 \
    --methods taylor,taylor-batch,taylor-mixed,fisher,fisher-block,activation,magnitude,l1,random,reversed
study frontier repaired "${repair[@]}" --steps 150 --eval-every 50 --learning-rate 2e-4 --dropout 0.1 --patience 0 --sparsities 0.3,0.5,0.65,0.8
study scorers repaired-scorers "${repair[@]}" --steps 40 --eval-every 20 --learning-rate 2e-4 \
    --methods taylor,taylor-batch,fisher,activation,magnitude,random
study sparsity repaired "${repair[@]}" --steps 150 --eval-every 50 --learning-rate 2e-4 --sparsities 0.1,0.2,0.4,0.5
study sparsity plain
study oracle plain
study lambda plain --sparsities 0.1,0.2,0.5
study rewind repaired-rewind "${repair[@]}" --steps 30 --objective unsup --learning-rate 1e-5 --sparsities 0.2 --seeds 3
study objectives repaired-objectives "${repair[@]}" --steps 60 --learning-rate 1e-5 --sparsities 0.1,0.2
