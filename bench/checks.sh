# What the checks of this folder share; sourced by run_*_checks.sh with their arguments, from the repository's root.
#
# They define `run_part NAME`, which runs one part by `limit` and its kin, and end with `run_checks DEFAULT_PART...`.
# A check takes OUT [PART...] and writes into the folder OUT: PART.log, and PART.json where a part has numbers, for every
# part, and summary.json with each one's exit status and seconds. Without PARTs it runs the default ones. Programs are
# taken from build/bin and build/tests, or else from PATH. A part that fails or passes its time does not stop the others;
# the exit status tells of it.
set -uo pipefail

if [ $# -lt 1 ]; then  # The comment at the check's top.
  awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"
  exit 2
fi
out=$1; shift
mkdir -p "$out"
parts=("$@")
PATH=$PWD/build/bin:$PWD/build/tests:$PATH
python=${PYTHON:-python3}
[ -n "${PYTHON:-}" ] || [ ! -x .deps/venv/bin/python3 ] || python=.deps/venv/bin/python3
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}  # Multicast needs rights that virtual machines lack.

# Seconds, command.
limit() { timeout --kill-after=5 "$@"; }
# Seconds, program, its arguments: one that writes the part's numbers.
measure() { limit "$1" "$2" --json "$out/$part.json" "${@:3}"; }
# Seconds, a script of peers/, its arguments.
peer() { limit "$1" "$python" "bench/peers/$2" --json "$out/$part.json" "${@:3}"; }

run_checks() {
  local failed=0 status begin seconds rows=()
  [ ${#parts[@]} -gt 0 ] || parts=("$@")
  for part in "${parts[@]}"; do
    begin=$(date +%s.%N)
    run_part "$part" > "$out/$part.log" 2>&1
    status=$?
    seconds=$(awk -v a="$begin" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
    tail -n 60 "$out/$part.log" | grep -vE '^(Running|Note:)'
    echo "-- $part: status $status, $seconds s"
    [ $status -eq 0 ] || failed=1
    rows+=("{\"part\": \"$part\", \"status\": $status, \"seconds\": $seconds}")
  done
  (IFS=,; echo "[${rows[*]}]") > "$out/summary.json"
  exit $failed
}
