"""Statistics of success counts: pure functions, numbers in and numbers or frozen records out.

docs/statistics.md says what each is for, and shows how they were checked.
"""

from twin_eval.statistics.clustered import (
    clustered_difference_interval,
    clustered_p_value,
    clustered_rate_interval,
    mean_interval,
    sign_flip_p_value,
)
from twin_eval.statistics.intervals import clopper_pearson_interval, wilson_interval
from twin_eval.statistics.multiple import compact_letter_display, holm
from twin_eval.statistics.paired import PairCounts, mcnemar_exact, paired_difference_interval
from twin_eval.statistics.power import (
    EpisodesNeeded,
    StoppingTime,
    episodes_needed,
    mcnemar_power,
    pair_probabilities,
    smallest_difference,
    stopping_time,
)
from twin_eval.statistics.sequential import (
    SequentialDecision,
    anytime_p_values,
    decide,
    e_process,
)
from twin_eval.statistics.unpaired import UnpairedDifference, barnard_exact, unpaired_difference

__all__ = [
    "EpisodesNeeded",
    "PairCounts",
    "SequentialDecision",
    "StoppingTime",
    "UnpairedDifference",
    "anytime_p_values",
    "barnard_exact",
    "clopper_pearson_interval",
    "clustered_difference_interval",
    "clustered_p_value",
    "clustered_rate_interval",
    "compact_letter_display",
    "decide",
    "e_process",
    "episodes_needed",
    "holm",
    "mcnemar_exact",
    "mcnemar_power",
    "mean_interval",
    "pair_probabilities",
    "paired_difference_interval",
    "sign_flip_p_value",
    "smallest_difference",
    "stopping_time",
    "unpaired_difference",
    "wilson_interval",
]
