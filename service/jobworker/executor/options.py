"""The executor's command line. Relative paths are those of the folder that it was started in."""

import argparse
import os
from typing import List, Optional

from .rootfs import READABLE

_path = os.path.abspath


def options_of(arguments: Optional[List[str]]) -> argparse.Namespace:
    """The command line, understood. Ends the program, with a message, where it is wrong."""
    parser = argparse.ArgumentParser(prog="executor", description="The parent of every job: starts, pumps, reaps.")
    ways = parser.add_mutually_exclusive_group(required=True)
    ways.add_argument("--fd", type=int, help="an open SOCK_SEQPACKET socket to the server")
    ways.add_argument(
        "--connect",
        metavar="PATH",
        type=_path,
        help="the server's socket; tried again whenever it is not there",
    )
    ways.add_argument("--copy-to", metavar="FOLDER", help="copy this program there, as executor.pyz, and end")
    parser.add_argument(
        "--isolate", choices=("auto", "none"), default="auto", help="namespaces or Landlock, whichever is to be had"
    )
    parser.add_argument(
        "--readable",
        metavar="PATH",
        type=_path,
        action="append",
        default=[],
        help=f"what jobs may read and execute of the machine, beside {' '.join(READABLE)}",
    )
    parser.add_argument(
        "--writable",
        metavar="PATH",
        type=_path,
        action="append",
        default=[],
        help="what they may write as well",
    )
    parser.add_argument("--hide", metavar="PATH", type=_path, action="append", default=[], help="what they never see")
    parser.add_argument(
        "--work", metavar="FOLDER", type=_path, help="here each batch has a folder, where its jobs start"
    )
    parser.add_argument("--user", metavar="NAME|UID[:GID]", help="whom root's executor runs jobs as; else nobody")
    parser.add_argument(
        "--uids",
        metavar="FIRST-LAST",
        help="user ids for jobs, one for each of the service's users; takes root. Else all jobs run as --user",
    )
    parser.add_argument("--allow-root-jobs", action="store_true", help="run jobs as root, where the executor is root's")
    parser.add_argument(
        "--closed-port", metavar="PORT", type=int, action="append", default=[], help="a TCP port they may not bind"
    )
    parser.add_argument(
        "--processes", metavar="N", type=_count, help="of all jobs together; else 7/8 of what the machine allows"
    )
    parser.add_argument("--path", help="PATH of the jobs")
    parser.add_argument("--home", metavar="FOLDER", help="HOME of the jobs, where they start; else that of the user")
    parser.add_argument(
        "--memory-watch",
        metavar="FRACTION",
        type=_fraction,
        help="end the job that holds most when so much of the control group's memory limit is held",
    )
    parser.add_argument("--stop-grace", metavar="SECONDS", type=float, default=5.0, help="of jobs, when it is stopped")
    parser.add_argument("--ack-wait", metavar="SECONDS", type=float, default=5.0, help="for the server, when stopped")
    parser.add_argument("--disk-retry", metavar="SECONDS", type=float, default=1.0, help="while a disk is full")
    parser.add_argument("--disk-patience", metavar="SECONDS", type=float, default=60.0, help="then the job is ended")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value
