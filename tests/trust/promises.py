"""What is promised, in a line each; the suites name the promises that they prove."""

PROMISES = {
    "G1": "No silence: every accepted request is answered by its deadline, whatever fails",
    "G2": "A worker killed at any moment: its requests are tried once on a sibling; none is lost",
    "G3": "Meanwhile other models notice nothing",
    "G4": "A replacement works within a second (stub) or three (100 MB model)",
    "G5": "Crash loops: a breaker with Retry-After and probes, for ever; never a silent stop",
    "G6": "Hangs are dumped and ended, memory is bounded, poisonous inputs refused",
    "G7": "A client that leaves takes its work with it",
    "G8": "Overload: bounded queues, cheap refusals with Retry-After, goodput near the peak",
    "G9": "SIGTERM: not ready at once, nothing lost, exit 0; a second signal ends at once",
    "G10": "A front end that dies loses what is in flight there, and nothing else",
    "G11": "Bad and half-copied archives: a 4xx with the reason, and nothing else changes",
    "G12": "Snapshots: always the old or the new, whole, at every crash point",
    "G13": "Full or read-only disks, no descriptors left: serving goes on, and recovers",
    "G14": "Version swaps without a failed request or a mixed-up answer",
    "G15": "The life of a model is linear, whoever calls",
    "G16": "No leaks",
    "G17": "Wall clocks may jump",
    "G18": "Slow clients are closed, and good ones do not notice",
    "G19": "Limits hold before memory is taken",
    "G20": "No input ends, stalls or breaks the server",
    "G21": "Probes: alive, ready, started, beside TorchServe's ping",
    "G22": "Closed by default",
    "G23": "One gate: tokens, scopes, rotation, the same for every path, host and method",
    "G24": "No secret leaves in answers, logs, metrics or process lists",
    "G25": "Handlers see the minimum of headers, environment and descriptors",
    "G26": "TLS 1.2 and later, certificates renewed without a lost connection",
    "G27": "Fetching reaches allowed hosts and nothing else",
    "G28": "Extraction writes into its stage and nowhere else",
    "G29": "Sandbox levels; one that cannot be had fails closed",
    "G30": "The server process never decodes objects",
    "G31": "The least privilege is enough",
    "G32": "Signed archives: verified before they are parsed",
    "G33": "Supply chain: hashes, SBOM, provenance",
    "G34": "Strangers cannot make memory or metrics grow",
}

BY_TESTS = {"G5": "tests/supervisor/test_breaker.py"}
"""Promises that ordinary tests show, beside the suites or instead of one."""

UNPROVEN = {"G31": "nothing here runs the server as another user with a read-only root yet"}
"""Promises without a proof, and why."""
