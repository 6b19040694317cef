"""kd-ray plan: what a recipe costs, before anything is spent."""
