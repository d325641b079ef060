#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Run the tests: all of them, or with arguments what these ask of pytest, and nothing more.
#
# All of them are thousands, which start servers, daemons and machines. Up to three that fail
# are run once more, one at a time: what fails again fails here, and what does not is named as
# unsteady. That is a fault, of the test or of SnapVault, to be mended; it is hardly one of the
# change at hand.
set -eu
cd "$(dirname "$0")/.."

run=".venv/bin/python -m pytest"
together="-n auto --maxprocesses 4 --dist loadfile"
failed=.pytest_cache/v/cache/lastfailed

if [ $# -gt 0 ]; then
    exec $run $together "$@"
fi

rm -f "$failed"
$run $together && exit
status=$?
if [ "$status" -ne 1 ] || [ "$(grep -c '::' "$failed")" -gt 3 ]; then
    exit "$status"
fi

names=$(grep '::' "$failed")
$run -n 0 --last-failed
echo "unsteady: failed at first, and passed alone:"
echo "$names"
