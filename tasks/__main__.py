"""`python -m tasks STEP --partition 2017-07-01 --input build_dataset=s3://...`: any step, without Airflow."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from contextlib import redirect_stdout

from tasks import telemetry_off
from tasks.domain.errors import InputRejected, Unavailable
from tasks.record import record_step
from tasks.run import run
from tasks.settings import Settings
from tasks.steps import STEPS, step_named

EXIT_REJECTED, EXIT_UNAVAILABLE = 2, 75  # 75: EX_TEMPFAIL, worth a retry


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def main(argv: list[str] | None = None) -> int:
    telemetry_off.apply()
    # threads that spin while they wait take ten times as long as soon as anything else runs on the machine
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = argparse.ArgumentParser(prog="python -m tasks", description=__doc__)
    parser.add_argument("step", choices=list(STEPS), metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--partition", required=True, help="the day, YYYY-MM-DD")
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        type=_pair,
        metavar="STEP=URI",
        help="manifest of an earlier step; repeat it",
    )
    parser.add_argument(
        "--option", action="append", default=[], type=_pair, metavar="NAME=VALUE", help="for example recipe=tiny"
    )
    chosen = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        settings = Settings()
        with redirect_stdout(sys.stderr):  # libraries draw their bars there; ours is the manifest's URI alone
            uri = run(
                step_named(chosen.step), chosen.partition, dict(chosen.input), settings, options=dict(chosen.option)
            )
        record_step(uri, f"by hand {chosen.partition}", settings)
    except InputRejected as err:
        sys.stderr.write(f"refused: {err}\n")
        return EXIT_REJECTED
    except Unavailable as err:
        sys.stderr.write(f"unavailable: {err}\n")
        return EXIT_UNAVAILABLE
    sys.stdout.write(uri + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
