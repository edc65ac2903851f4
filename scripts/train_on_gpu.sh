#!/usr/bin/env bash
# Train, evaluate and report into one folder, in legs of ten minutes: each goes on where the one before was stopped.
#
#   scripts/train_on_gpu.sh                                        primer_smollm2_gpu: some twenty minutes of a large GPU
#   scripts/train_on_gpu.sh primer_smollm2_gpu seed=1 workers=6    further words are overrides of the recipe
#   LEG_S=0 scripts/train_on_gpu.sh                                in one go
#   LEGS=1 scripts/train_on_gpu.sh                                 one leg alone, where something else starts the next
#
# In $OUT, by default runs/RECIPE: final/ (model, card, recipe), scores.json, scores/ (each split, every answer),
# metrics.jsonl, report.html. Workers hand batches over in shared memory, a few hundred MB each: a container with little
# of it wants workers=0 or a larger --shm-size.
#
# Exit code: 0 when the report is whole, 75 when legs are left to do, anything else is a mistake that is said above.
set -u

RECIPE="${1:-primer_smollm2_gpu}"
[ $# -gt 0 ] && shift
OUT="${OUT:-runs/$(basename "$RECIPE" .py)}"
LEG_S="${LEG_S:-600}"           # seconds of a leg; 0: no end
LEGS="${LEGS:-1000}"            # how many at most
GRACE_S="${GRACE_S:-45}"        # of a leg, kept to finish a step and write its checkpoint
LIMIT="${LIMIT:-100}"           # questions per task and split
SPLITS="${SPLITS:-val,test_comp,test_style,test_para}"
BATCH_SIZE="${BATCH_SIZE:-256}" # questions answered at once
PHANTROL="${PHANTROL:-phantrol}"

export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-1000}"
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"

within_leg() { # run a command for as long as is left of the leg
    if [ "$LEG_S" -eq 0 ]; then
        "$@"
        return
    fi
    local left=$((ends_s - SECONDS))
    [ "$left" -gt 0 ] || return 124
    timeout --signal=TERM --kill-after="$GRACE_S" "$left" "$@"
}

for ((leg = 1; leg <= LEGS; leg++)); do
    ends_s=$((SECONDS + LEG_S - GRACE_S))
    code=0
    if [ ! -f "$OUT/final/config.json" ]; then
        within_leg $PHANTROL train "$RECIPE" "$@" --out "$OUT" --resume
        code=$?
    fi
    if [ "$code" -eq 0 ]; then
        within_leg $PHANTROL report "$OUT" --split "$SPLITS" --limit "$LIMIT" --batch-size "$BATCH_SIZE"
        code=$?
    fi
    case $code in
        0) exit 0 ;;
        124 | 137 | 143) echo "leg $leg is over; $OUT goes on from here" >&2 ;;
        *) exit "$code" ;;
    esac
done
exit 75
