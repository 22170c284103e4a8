"""The laboratory: the experiments of the papers, their data, runs kept in folders, and the tables and figures."""
