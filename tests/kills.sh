#!/usr/bin/env bash
# Processes killed with SIGKILL at random points, in one go: the object store's nodes, namenodes, agents, and namenodes with a standby; and stream servers.
#
#   tests/kills.sh [HOW MANY]        1000 without a number; each part prints its seed, and GEDS_SEED (streams: SEED) repeats its choices (when to kill, what to ask; not how threads take their turns)
#
# `make test` has a few of each, at points of their own in each run.
set -euo pipefail
cd "$(dirname "$0")/.."
all="${1:-1000}"
part() { echo $((all * $1 / 100 > 0 ? all * $1 / 100 : 1)); }
run() { # variable, how many, target, test
    echo "kills: $2 x $4"
    env "$1=$2" cargo test --release --workspace --test "$3" -- --nocapture "$4"
}
run GEDS_KILLS "$(part 60)" geds acknowledged_seals_survive_a_kill
run GEDS_KILLS "$(part 25)" linearizable defect_08_what_clients_are_told_fits_together_through_kills
run GEDS_AGENT_KILLS "$(part 10)" sharing what_an_agent_acknowledged_survives_its_kill_at_random_points
run GEDS_TAKEOVERS "$(part 5)" standby a_standby_takes_over_from_one_that_is_killed_and_nothing_acknowledged_is_lost
run KILLS "$all" end_to_end what_clients_were_told_is_durable_survives_kills_once_and_in_order
