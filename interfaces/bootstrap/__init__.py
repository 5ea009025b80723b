"""The composition root: the one place that sees all four rings. Each part's close is registered as it is opened."""

from infrastructure.observability import SERVER_LOGGING
from infrastructure.system import allow_descriptors
from interfaces.bootstrap.background import jobs, last_runs, run_background, run_job
from interfaces.bootstrap.core import Core, open_core, secret_file, set_clock, start_logging, tie_to_parent
from interfaces.bootstrap.database import keep_running, migrate_database, open_database
from interfaces.bootstrap.management import Management, management
from interfaces.bootstrap.serving import OpenGate, http_app, open_gate, share_board

__all__ = [
    "SERVER_LOGGING",
    "Core",
    "Management",
    "OpenGate",
    "allow_descriptors",
    "http_app",
    "jobs",
    "keep_running",
    "last_runs",
    "management",
    "migrate_database",
    "open_core",
    "open_database",
    "open_gate",
    "run_background",
    "run_job",
    "secret_file",
    "set_clock",
    "share_board",
    "start_logging",
    "tie_to_parent",
]  # fmt: skip
