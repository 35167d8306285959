"""How good predictions are: figures, intervals, charts and pages."""
