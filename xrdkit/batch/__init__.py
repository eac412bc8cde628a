"""Many patterns: a table in, a folder of results for every row, one summary.

A row that is done is not done again, one that fails stops no other, and nothing half is
left. One worker needs nothing more than this package; more of them, or a cluster's, are
workers of Dask, which come with ``pip install 'xrdkit[batch]'``. On a machine with queues:

    from dask_jobqueue import SLURMCluster

    cluster = SLURMCluster(cores=1, memory="4GB", walltime="02:00:00")
    cluster.scale(50)
    print(cluster.scheduler_address)  # xrdkit batch table.csv -o results --scheduler …

Its workers must see table, patterns and results under the same names, and have xrdkit.
"""

from xrdkit.batch.run import batch, batch_steps
from xrdkit.batch.table import COLUMNS, BadTable, Fault, Row, read_table

__all__ = ["COLUMNS", "BadTable", "Fault", "Row", "batch", "batch_steps", "read_table"]
