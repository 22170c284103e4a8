"""The laboratory: the experiments of the papers, their data, runs kept in folders, and the tables and figures."""

from fastalign.papers.runs.reading import read_metrics

__all__ = ["read_metrics"]
