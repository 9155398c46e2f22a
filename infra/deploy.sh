#!/bin/sh
# Make the work pool, the deployments, the slots and the automations on the server that PREFECT_API_URL names; again
# changes nothing. Where the workers have this project at the same path: infra/Dockerfile.* put it at /opt/robert/deploy.
# Usage: deploy.sh SETTINGS SLOTS, the settings file on the workers and how many runs may embed at the same time
set -eu
cd "$(dirname "$0")"
[ -f prefect.yaml ] || cd ..
prefect work-pool inspect robert >/dev/null 2>&1 || prefect work-pool create robert --type process
prefect --no-prompt deploy --all
exec python -m flows.setup "$1" "$2"
