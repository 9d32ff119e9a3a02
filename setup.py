"""The rest of pyproject.toml: a wheel carries the workflow below mosa/workflow, and git has it once."""

from itertools import chain
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

WORKFLOW = ("Snakefile", "config.yaml", "rules", "envs", "profiles", "configs", "report")


class BuildWithWorkflow(build_py):
    """Copies the workflow from the top level below the package; an editable install reads it at the top."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for built, source in self._workflow().items():
                Path(built).parent.mkdir(parents=True, exist_ok=True)
                self.copy_file(source, built)

    def _workflow(self) -> dict[str, str]:
        """Return the files of the workflow, by the path in the build folder of each."""
        found = chain.from_iterable([path, *path.rglob("*")] for path in map(Path, WORKFLOW))
        folder = Path(self.build_lib) / "mosa" / "workflow"
        return {str(folder / path): str(path) for path in sorted(found) if path.is_file()}

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *self._workflow().values()]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        workflow = [] if self.editable_mode else self._workflow()
        return [*super().get_outputs(include_bytecode), *workflow]


setup(cmdclass={"build_py": BuildWithWorkflow})
