#!/usr/bin/env bash
# Converts RoboTwin's episodes, which train.sh does by itself; in ROOT/policy/lapo:
# bash process_data.sh task_name task_config expert_data_num
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)" || exit
exec bash "$here/../twin_policy/scripts/process_data.sh" "$here" "$@"
