"""Agreement of a task that reads tokens with the encoder that makes them, and with the rest of a configuration."""

from __future__ import annotations

from hybridmu.config.data import DataSettings, TaskSettings
from hybridmu.config.deployment import ClusterSettings
from hybridmu.config.feature_settings import FeatureSettings
from hybridmu.config.training_settings import ComputeSettings
from hybridmu.kinds import ENCODER_OF_TASK


def unfit_tokens(
    task: TaskSettings,
    features: FeatureSettings,
    data: DataSettings,
    compute: ComputeSettings,
    cluster: ClusterSettings,
) -> str | None:
    """Return which setting does not go with a task that reads tokens, or None; there is none for other tasks.

    Args:
        task: Its options name a backbone and a length.
        features: The encoder of tokens names the same.
        data: Columns.
        compute: Of a step.
        cluster: Of several processes.
    """
    encoder = ENCODER_OF_TASK.get(task.name)
    if encoder is None:
        return None
    made = [each for encoders in features.text.values() for each in encoders]
    if features.image or [each.name for each in made] != [encoder]:
        return (
            f"task {task.name} reads the tokens of one text: expected features.text: {{COLUMN: {{name: {encoder},"
            " folder: FOLDER, length: N}}, and no other encoder"
        )
    for option, of_encoder in (("backbone", "folder"), ("length", "length")):
        ours, theirs = task.options.get(option), made[0].options.get(of_encoder)
        if ours != theirs or ours is None:
            return f"task.{option} is {ours!r}, but {of_encoder} of {encoder} is {theirs!r}: they have to be the same"
    if data.standardize:
        return f"data.standardize would change the numbers of tokens, which task {task.name} reads; use data.scale"
    if compute.compile:
        return f"compute.compile does not go with task {task.name}, whose sub-models share a backbone"
    if compute.parts > 1 and cluster.wide == "fsdp2":
        return f"cluster.wide: fsdp2 divides parameters among processes, and task {task.name} has next to none; use ddp"
    return None
