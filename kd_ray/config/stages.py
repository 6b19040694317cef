"""The names of the stages, in their order."""

STAGES = ("pack", "finetune", "plan", "extract", "train", "evaluate", "export", "report")
