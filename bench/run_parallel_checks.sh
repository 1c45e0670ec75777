#!/usr/bin/env bash
# On a machine with two GPUs, from the repository's root: the tests labelled gpu2, which run the parallel methods over
# NCCL, and what a step takes by each layout beside one GPU.
#
#   bench/run_parallel_checks.sh OUT [PART...]
#
# Writes into the folder OUT: PART.log for every part, and the numbers of steps in PART.json. Without PARTs runs all.
# Programs are taken from build/bin and build/tests, or else from PATH. A part that fails or passes its time does not stop
# the others; the exit status tells of it.
set -uo pipefail
[ $# -ge 1 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
out=$1; shift
mkdir -p "$out"
PATH=$PWD/build/bin:$PWD/build/tests:$PATH
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}  # Multicast needs rights that virtual machines lack.

limit() { timeout --kill-after=5 "$@"; }
steps() { limit "$1" bench-parallel-steps --json "$out/$part.json" "${@:2}"; }

run_part() {
  case $1 in
    steps) steps 540 --sizes 1024,2048 ;;
    steps_4096) steps 400 --sizes 4096 --cuda-graphs on --image-steps 0 ;;
    *_float32) PATCHFLOW_TEST_DTYPE=float32 limit 240 "${1%_float32}" --gtest_brief=1 ;;
    *) limit 240 "$1" --gtest_brief=1 ;;
  esac
}
methods=(methods tensor_parallel ulysses ring guidance_split distrifusion pipefusion)
default_parts=(communicator_over_nccl mesh_edges_over_nccl nccl_communicator nccl_two_processes
  "${methods[@]/%/_over_nccl}" "${methods[@]/%/_over_nccl_float32}" steps)

[ $# -gt 0 ] || set -- "${default_parts[@]}"
failed=0
for part in "$@"; do
  begin=$SECONDS
  run_part "$part" > "$out/$part.log" 2>&1
  status=$?
  tail -n 60 "$out/$part.log" | grep -vE '^(Running|Note:)'
  echo "-- $part: status $status, $((SECONDS - begin)) s"
  [ $status -eq 0 ] || failed=1
done
exit $failed
