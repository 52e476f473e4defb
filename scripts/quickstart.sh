#!/usr/bin/env bash
# lema from nothing to chatting: installs what the build needs, builds lema, fetches a small real model, teaches it to
# answer in a strict format, and measures before and after on questions it was not trained on. Everything it makes is in
# build-quickstart/ and quickstart/. A second run keeps the build, the download and the converted model, and trains again.
set -euo pipefail

usage() {
  cat << 'END'
scripts/quickstart.sh [--model PATH] [--epochs N]
  --model PATH  a chat model of your own, a Hugging Face folder or a GGUF file (default: SmolLM2-135M-Instruct, fetched)
  --epochs N    passes over the training data (default: that of configs/quickstart.json)
END
}

source_model=
train_options=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --model) source_model=$(realpath -e "${2:?--model needs a path}"); shift 2 ;;
    --epochs) train_options+=(--set "train.epochs=${2:?--epochs needs a number}"); shift 2 ;;
    -h | --help) usage; exit 0 ;;
    *) echo "quickstart.sh: unknown argument $1" >&2; usage >&2; exit 2 ;;
  esac
done
cd "$(dirname "$0")/.."
own_settings=${source_model}${train_options[*]:-}

lema=build-quickstart/lema
system='You are a precise assistant trained using LEMA.'
strict='\A\[LEMA_REPLY\]\nAnswer: .+\nExplanation: .+\nConfidence: (High|Medium|Low)\n\[/LEMA_REPLY\]\s*\z'

number=0 began=0
minutes() { printf '%dm%02ds' $(($1 / 60)) $(($1 % 60)); }
# step TITLE: ends the step before with its duration and begins the next one.
step() {
  [[ $number == 0 ]] || echo "      done in $(minutes $((SECONDS - began)))"
  number=$((number + 1)) began=$SECONDS
  printf '\n[%d/8] %s\n' "$number" "$1"
}

# measure NAME [--adapter DIR]: replies of the model to the held-out and the recall questions, into quickstart/NAME-*.
measure() {
  local name=$1
  shift
  local common=(--model quickstart/model "$@" --task match --max-new-tokens 128 --batch 16 --json)
  "$lema" eval "${common[@]}" --data quickstart/data/heldout.jsonl --pattern "$strict" --require-stop \
    --output "quickstart/$name-replies.jsonl" > "quickstart/$name-format.json"
  "$lema" eval "${common[@]}" --data quickstart/data/recall.jsonl > "quickstart/$name-recall.json"
  echo "      strict format: $(figure "$name" format)   facts recalled: $(figure "$name" recall)"
}

# figure NAME format|distinct|recall: one measured share, as text.
figure() {
  python3 - "quickstart/$1" "$2" << 'END'
import json, re, sys
prefix, what = sys.argv[1:]
if what == "distinct":  # of the replies in the strict format, the answers that no other gives
    replies = [json.loads(line) for line in open(prefix + "-replies.jsonl", encoding="utf-8")]
    answers = [re.search("^Answer: (.+)$", r["reply"], re.M).group(1) for r in replies if r["matched"]]
    part, all = len(set(answers)), len(answers)
else:
    summary = json.load(open(f"{prefix}-{what}.json"))
    part, all = summary["matched"], summary["rows"]
print(f"{100 * part / all:.1f} % ({part} of {all})" if all else "-")
END
}

# ask QUESTION MODEL: the greedy reply.
ask() { "$lema" chat --model "$2" --system "$system" --prompt "$1" --greedy --max-new-tokens 128; }

step "Install the packages that the build needs"
bash scripts/install_deps.sh

step "Build lema"
options=(-DLEMA_TESTS=OFF -DCMAKE_BUILD_TYPE=Release)
if nvidia-smi > /dev/null 2>&1; then
  options+=(-DLEMA_CUDA=AUTO -DCMAKE_CUDA_ARCHITECTURES=native)
else
  options+=(-DLEMA_CUDA=OFF)
fi
mkdir -p build-quickstart
echo "      log: build-quickstart/build.log"
if ! { cmake -S . -B build-quickstart -G Ninja "${options[@]}" \
       && cmake --build build-quickstart -j "$(nproc)" --target lema; } > build-quickstart/build.log 2>&1; then
  tail -n 40 build-quickstart/build.log
  exit 1
fi
"$lema" --version | sed 's/^/      /'

step "Get the model and convert it"
mkdir -p quickstart
[[ -n $source_model ]] || source_model=$(bash scripts/fetch_smollm.sh quickstart/download)
if [[ ! -d quickstart/model || $(cat quickstart/model.source 2> /dev/null) != "$source_model" ]]; then
  rm -rf quickstart/model
  "$lema" convert "$source_model" quickstart/model --dtype bf16
  echo "$source_model" > quickstart/model.source
fi
"$lema" inspect quickstart/model

step "Write the data set: questions, and answers in the strict format"
python3 scripts/make_reply_dataset.py --output quickstart/data

step "Measure the model as it is (88 held-out questions, 40 facts of the training set)"
measure before

step "Train a LoRA adapter"
rm -rf quickstart/run quickstart/merged
training=$SECONDS
[[ -t 2 ]] || train_options+=(--set log.every_steps=10)
"$lema" train --config configs/quickstart.json ${train_options[@]+"${train_options[@]}"}
training=$((SECONDS - training))

step "Measure the trained model"
measure after --adapter quickstart/run/last

step "Merge the adapter into the model and ask both"
"$lema" merge --model quickstart/model --adapter quickstart/run/last --output quickstart/merged --verify
question=$(python3 -c 'import json; row = json.loads(open("quickstart/data/heldout.jsonl").readline())
print(next(m["content"] for m in row["messages"] if m["role"] == "user"))')
printf '\nQuestion (not in the training data): %s\n\n--- before\n' "$question"
ask "$question" quickstart/model
printf '\n--- after\n'
ask "$question" quickstart/merged

peak=$(python3 -c 'import json
peaks = [json.loads(line).get("ram_peak_bytes", 0) for line in open("quickstart/run/metrics.jsonl")]
print(f"{max(peaks) / 1e9:.2f} GB")')
row() { printf '  %-44s %-18s %s\n' "$@"; }
printf '\nResult\n'
row "" before after
row "held-out replies in the strict format" "$(figure before format)" "$(figure after format)"
row "distinct answers among them" "$(figure before distinct)" "$(figure after distinct)"
row "training facts recalled" "$(figure before recall)" "$(figure after recall)"
row "training time" "" "$(minutes $training)"
row "peak memory of training (resident)" "" "$peak"
row "total time" "" "$(minutes $SECONDS)"
cat << END

Go on chatting:
  $lema chat --model quickstart/merged --system '$system'
Train on your own data: README.md, "A real fine-tune".
END

# With the settings of this repository the figures are known; whoever changes them judges for themselves.
if [[ -z $own_settings ]]; then
  python3 -c 'import json, sys; sys.exit(json.load(open("quickstart/after-format.json"))["match_share"] < 0.95)' \
    || { echo "quickstart.sh: fewer than 95 % of the replies follow the format; that is not as it should be" >&2; exit 1; }
fi
