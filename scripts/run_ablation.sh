#!/usr/bin/env bash
# The whole experiment, on a GPU or a CPU, in legs of ten minutes: each goes on where the one before was stopped.
#
#   scripts/run_ablation.sh                                     primer_tiny, all variants, 3 seeds
#   scripts/run_ablation.sh primer_smollm2 --seeds 3            another recipe; further words go to `phantrol ablate`
#   LEG_S=0 scripts/run_ablation.sh                             in one go
#   LEGS=1 scripts/run_ablation.sh                              one leg alone, where something else starts the next
#
# Exit code: 0 when the report is whole, 75 when legs are left to do, anything else is a mistake that is said above.
set -u

RECIPE="${1:-primer_tiny}"
[ $# -gt 0 ] && shift
OUT="${OUT:-runs/$(basename "$RECIPE" .py)-ablation}"
LEG_S="${LEG_S:-600}"         # seconds of a leg; 0: no end
LEGS="${LEGS:-1000}"          # how many at most
GRACE_S="${GRACE_S:-60}"      # of a leg, kept to finish a step and write its checkpoint
PHANTROL="${PHANTROL:-phantrol}"

export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-1000}"
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"

for ((leg = 1; leg <= LEGS; leg++)); do
    if [ "$LEG_S" -eq 0 ]; then
        $PHANTROL ablate "$RECIPE" --out "$OUT" --drop-models "$@"
    else
        timeout --signal=TERM --kill-after="$GRACE_S" "$((LEG_S - GRACE_S))" \
            $PHANTROL ablate "$RECIPE" --out "$OUT" --drop-models "$@"
    fi
    code=$?
    case $code in
        0) exit 0 ;;
        124 | 137 | 143) echo "leg $leg is over; $OUT goes on from here" >&2 ;;
        *) exit "$code" ;;
    esac
done
exit 75
