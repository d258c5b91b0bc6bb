#!/usr/bin/env bash
# Trains on RoboTwin's episodes; in ROOT/policy/lapo:
# bash train.sh task_name task_config expert_data_num seed [action_dim gpu_id] [--option ...]
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)" || exit
exec bash "$here/../twin_policy/scripts/train.sh" "$here" "$@"
