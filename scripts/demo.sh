#!/usr/bin/env bash
# The whole path once, on the generated demo catalogue: raw files to recommendations over gRPC.
set -euo pipefail
cd "$(dirname "$0")/.."
rm -rf demo saved_models/demo
offline=(--image-encoder offline --text-encoder offline --audio-encoder offline)
data=(--items demo/items.csv --users demo/users.csv)

say() { printf '\n$ %s\n' "$*"; "$@"; }

say mmtfrs demo-data demo
say mmtfrs check "${data[@]}" --events demo/events.csv
say mmtfrs extract "${data[@]}" --store demo/features "${offline[@]}"
say mmtfrs train "${data[@]}" --events demo/events.csv --out demo/run "${offline[@]}"
say mmtfrs evaluate demo/run --baselines ease,id_only,no_media,image,text,audio
say mmtfrs missing demo/run
say mmtfrs export demo/run saved_models/demo
say mmtfrs recommend saved_models/demo --user user-0001 -k 5

printf '\n$ python -m serving.server saved_models/demo --port 0 &\n'
python -m serving.server saved_models/demo --port 0 > demo/server.log 2>&1 &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
for _ in $(seq 120); do
  grep -q '^serving' demo/server.log && break
  kill -0 $server 2>/dev/null || { cat demo/server.log; exit 1; }
  sleep 0.5
done
grep '^serving' demo/server.log
address=$(grep '^serving' demo/server.log)
port=${address##*:}
pictures=(demo/image/*.png)
sounds=(demo/audio/*.flac)
ask=(python -m serving.client --target "localhost:$port" --model demo)
say "${ask[@]}" recommend --user user-0001 -k 5
say "${ask[@]}" recommend --text "a rocket near the comet" --image "${pictures[0]}" --audio "${sounds[0]}" -k 5
