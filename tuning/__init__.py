"""Search jobs for good settings: KerasTuner chooses, every trial trains in a process of its own."""
