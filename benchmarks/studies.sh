#!/usr/bin/env bash
# What docs/found.md rests on: benchmarks/studies.sh SENTEVAL_DIR SENTENCES_FILE OUT. Some four hours on 2 cores;
# interrupted, the same command goes on. Then copy the JSON files to benchmarks/results/studies (those of a variant as
# <name>-<variant>.json) and run benchmarks/study_reports.py.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$3"
cd "$3"
study() { python "$here/study.py" "$1" demo --data stsb --data-dir "$senteval" --threads 2 --out "$2" "${@:3}"; }
senteval=$1
sentences=(--train-data "$2")
repair=("${sentences[@]}" --precision bfloat16 --eval-every 50 --learning-rate 2e-4)
study scorers plain --seeds 3 \
    --methods taylor,taylor-batch,taylor-mixed,fisher,fisher-block,activation,magnitude,l1,random,reversed
study scorers repaired "${repair[@]}" --steps 40 --eval-every 20 \
    --methods taylor,fisher,activation,magnitude,random,taylor-batch # scorers-repaired.json
study frontier plain "${repair[@]}" --steps 150 --sparsities 0.17,0.3,0.5,0.65,0.8
study sparsity plain "${repair[@]}" --steps 150 --sparsities 0.01,0.05,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,0.95,0.99
study sparsity seeds "${repair[@]}" --steps 150 --sparsities 0.2,0.5 --seeds 5 # sparsity-seeds.json
study lambda plain --sparsities 0.1,0.2,0.5
study lambda repaired "${repair[@]}" --steps 150 --sparsities 0.2,0.5 # lambda-repaired.json
study budgets plain
study budgets repaired "${repair[@]}" --steps 150 --sparsities 0.2,0.35,0.5,0.65 # budgets-repaired.json
study oracle plain
study tasks plain
study data plain "${sentences[@]}"
study objectives plain "${sentences[@]}" --precision bfloat16 --steps 60 --learning-rate 1e-5 --sparsities 0.1,0.2
study rewind plain "${sentences[@]}" --precision bfloat16 --steps 40 --objective unsup --learning-rate 3e-5 \
    --sparsities 0.2 --seeds 3
