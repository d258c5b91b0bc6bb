#!/usr/bin/env bash
# Evaluates with RoboTwin's own script; in ROOT/policy/lapo:
# bash eval.sh task_name task_config ckpt_setting [expert_data_num seed gpu_id] [--key value ...]
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)" || exit
exec bash "$here/../twin_policy/scripts/eval.sh" "$here" "$@"
