#!/usr/bin/env bash
# Checks and times the CUDA kernels on a GPU machine that has PyTorch, nvcc and g++; README.md says how.
#     run.sh OUT                       everything; report.md and the logs of the steps go to the folder OUT
#     STEPS="numbers timing" run.sh OUT    some steps of: numbers timing ncu sanitize
set -uo pipefail
[ $# -eq 1 ] || { sed -n 2,4p "$0"; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1" && out=$(cd "$1" && pwd)
report=$out/report.md
steps=${STEPS:-numbers timing ncu sanitize}
failed=0
: >"$report"

step() {  # name, limit in seconds, command
  local name=$1 limit=$2 began=$SECONDS code
  shift 2
  timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1
  code=$?
  [ $code -eq 0 ] || { failed=1; tail -n 20 "$out/$name.log"; }
  echo "$name: exit $code after $((SECONDS - began)) s$([ $code -eq 124 ] && echo ' (its limit)')" | tee -a "$report"
  return $code
}
wants() { case " $steps " in *" $1 "*) ;; *) return 1 ;; esac }

nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv 2>&1 | tee -a "$report"
step build 400 python3 -m pip install --quiet --no-build-isolation --no-deps --upgrade --target "$out/package" "$here/../../examples/python" || exit 1
export PYTHONPATH=$out/package PYTHONDONTWRITEBYTECODE=1 VMB_DEVICE=cuda
cd "$here" || exit 1
if wants numbers; then
  step numbers 240 python3 -m unittest test_numbers
  grep -A 9 "largest errors" "$out/numbers.log" >>"$report"
fi
if wants timing; then
  step timing 240 python3 timing.py
  cat "$out/timing.log" >>"$report"
fi
if wants ncu; then
  for shape in 1,384,197,16 8,384,197,16 64,384,197,16; do
    name=ncu_${shape//,/x}
    step "$name" 90 ncu --clock-control none --set full --kernel-name 'regex:(scan|conv|sum_parts)' --force-overwrite \
      --export "$out/$name" python3 timing.py launch "$shape" || continue
    ncu --import "$out/$name.ncu-rep" --page raw --csv >"$out/$name.csv" 2>>"$out/$name.log"
    python3 timing.py metrics "$out/$name.csv" >>"$report"
  done
fi
if wants sanitize; then
  # Each tensor is an allocation of its own, so that its ends are seen.
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1
  for tool in memcheck racecheck synccheck; do
    step "sanitize_$tool" 180 compute-sanitizer --tool "$tool" --error-exitcode 9 python3 -m unittest test_numbers.Small
    grep -h -E "ERROR SUMMARY|RACECHECK SUMMARY" "$out/sanitize_$tool.log" >>"$report"
  done
fi
echo "$([ $failed -eq 0 ] && echo 'every step ended well' || echo 'NOT every step ended well')" | tee -a "$report"
exit $failed
