#!/usr/bin/env bash
# The whole path once, on the generated demo catalog: from raw files to recommendations over gRPC.
set -euo pipefail
cd "$(dirname "$0")/.."

# Two at once would write over each other: the second waits here. The lock is on this file, so that none is left behind. The
# commands below hold it too: what a killed script leaves running has ended before the next one begins.
exec {lock}< scripts/demo.sh
if command -v flock > /dev/null && ! flock -n "$lock"; then
  echo "Another make demo is running in this folder: waiting until it has ended."
  flock "$lock"
fi

bold='' dim='' plain=''
if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; fi

# A heading, and the command as one would type it.
heading() {
  local word line=''
  for word in "${@:2}"; do
    case $word in *' '*) word="\"$word\"" ;; esac
    line+=" $word"
  done
  printf '\n%s%s%s\n%s$%s%s\n' "$bold" "$1" "$plain" "$dim" "$line" "$plain"
}
step() { heading "$@" && "${@:2}"; }
# The same, with every tenth epoch, and without what the extraction has said of the encoders.
brief() {
  heading "$@"
  "${@:2}" 2>&1 |
    awk '/ stand-in, not a / || (/^epoch / && !/^epoch ([0-9]*0|1)\//) { next } { print; fflush() }'
}

# Texts and images by real encoders, which come from their publisher or the package index. YAMNet of the sounds comes from neither
# (docs/encoders.md says how to get it): a stand-in describes them.
encoders=(--audio-encoder offline)
data=(--items demo/items.csv --users demo/users.csv)
rm -rf demo saved_models/demo

step "Make a catalog with pictures, texts and sounds, and a log of who took what" \
  mmtfrs demo-data demo
step "Check every file" \
  mmtfrs check "${data[@]}" --events demo/events.csv
step "Encode pictures, texts and sounds, each once" \
  mmtfrs extract "${data[@]}" --store demo/features "${encoders[@]}"
brief "Train the two towers until the validation part gets no better" \
  mmtfrs train "${data[@]}" --events demo/events.csv --out demo/run "${encoders[@]}"
step "Measure on events that it has not seen, beside popularity, EASE and the same model without media" \
  mmtfrs evaluate demo/run --baselines ease,no_media
step "Take media away: how much of it is left?" \
  mmtfrs missing demo/run
brief "Write a SavedModel, which TensorFlow Serving runs as it is" \
  mmtfrs export demo/run saved_models/demo
says=$(sed -n 's/^user-0001,"\(.*\)"$/\1/p' demo/users.csv)
step "What is there for user-0001, who says \"$says\"?" \
  mmtfrs recommend saved_models/demo --user user-0001 -k 5
step "Ask for what no item says in these words" \
  mmtfrs recommend saved_models/demo --text "spacecraft of NASA far from Earth" -k 4

serve=(mmtfrs serve saved_models/demo --port 0)
heading "Serve it over gRPC" "${serve[@]}"
exec {said}< <(exec {lock}<&- && exec "${serve[@]}" 2> demo/server.log)
server=$!
# However this script ends, this pipe is closed then, and the server is stopped.
exec {alive}> >(exec {lock}<&- && cat > /dev/null; kill "$server" 2> /dev/null)
read -r line <&"$said" || { cat demo/server.log >&2 && exit 1; }
echo "$line"
ask=(python -m serving.client --target "${line##* }" --model demo)
pictures=(demo/image/*.png) sounds=(demo/audio/*.flac)
step "Ask the server with a text, a picture and a sound" \
  "${ask[@]}" recommend --text "a rocket near the comet" --image "${pictures[0]}" --audio "${sounds[0]}" -k 5
step "Ask it for items like one item" \
  "${ask[@]}" similar item-0001 -k 5
exec {alive}>&-
wait "$server" || [ $? -eq 143 ]  # it was told to end

bin=$(dirname "$(command -v mmtfrs)") && bin=${bin#"$PWD"/}
printf '\n%s\n' "Made: a catalog, a trained and measured model, and its export, which was served and asked."
echo "It is in demo/ (catalog, features, run/metrics.png) and saved_models/demo/ (the SavedModel)."
echo "Try: $bin/mmtfrs recommend saved_models/demo --text \"a tulip in the greenhouse\", or $bin/mmtfrs serve saved_models/demo"
