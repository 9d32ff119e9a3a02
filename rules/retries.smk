# Which failed jobs are done again. The `retries` of a profile count attempts and know no reasons: a run whose loss is
# NaN would be submitted four times, with more memory each time, to the same NaN. Here a job is done again unless its
# log ends with an error that would repeat (mosa/experiment/failures.py), and a job of a group unless it is done.
from tempfile import NamedTemporaryFile

from snakemake.jobs import Job

from mosa.experiment.failures import failed_for_good

if workflow.is_main_process:
    with NamedTemporaryFile(dir=Path(MANIFEST).parent) as now:
        STARTED = os.stat(now.name).st_mtime_ns  # by the clock of the file system that has the logs

    OF_THIS_WORKFLOW = workflow.current_basedir

    def retries_of(job):
        """How often a job is done again; Snakemake asks when it has failed, alone or in a group."""
        if job.rule.basedir != OF_THIS_WORKFLOW:
            return job.rule.restart_times
        if any(failed_for_good(Path(log), STARTED) for log in job.log):
            return 0
        if job.output and all(Path(path).exists() for path in job.output):
            return 0
        return job.rule.restart_times

    Job.restart_times = property(retries_of)
