#!/usr/bin/env bash
# Evaluates with RoboTwin's own scripts, the policy in a Python of its own; in ROOT/policy/lapo:
# bash eval_double_env.sh task_name task_config ckpt_setting expert_data_num seed gpu_id policy_python
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)" || exit
exec bash "$here/../twin_policy/scripts/eval_double_env.sh" "$here" "$@"
