"""What a model is built from: ids, counts, reduced features, histories. Built once, never changed after."""
