"""From a job to its report: samples, budgets, the journal."""
