"""`flambeau sign` and `flambeau verify`: signatures of archives and model folders."""

from pathlib import Path
from typing import Annotated

import typer

from flambeau.archive.admission import Policy
from flambeau.archive.keys import read_signing_key
from flambeau.archive.signing import sign as sign_model
from flambeau.archive.signing import signature_file
from flambeau.archive.signing import verify as verify_model
from flambeau.errors import ArchiveError, ConfigError, ErrorKind

ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="An archive or a model folder.")]


def sign(
    model: ModelPath,
    key: Annotated[
        Path, typer.Option(help="Private key: PEM, elliptic curve P-256, P-384 or P-521.")
    ],
    certificate: Annotated[
        list[Path] | None,
        typer.Option(help="The key's certificate, then those that lead to an authority (PEM)."),
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="File with the private key's password.")
    ] = None,
    links: Annotated[
        bool, typer.Option("--links", help="Take links in a folder for the files they lead to.")
    ] = False,
) -> None:
    """Sign a model: MODEL.sig beside an archive, model.sig in a folder.

    The format is the OpenSSF's (model-signing 1.0): `model_signing verify` accepts it, too. A key:
    openssl ecparam -name prime256v1 -genkey -noout -out private.pem
    openssl ec -in private.pem -pubout -out public.pem
    """
    password = _password(password_file)
    signing = read_signing_key(key, tuple(certificate or ()), password)
    print(sign_model(model, signing, links=links))


def verify(
    model: ModelPath,
    trusted_keys: Annotated[
        Path,
        typer.Option(
            "--trusted-keys", "--key", help="Public key or authority (PEM), or a folder of them."
        ),
    ],
    identity: Annotated[
        list[str] | None, typer.Option(help="Name in the signer's certificate; any of several.")
    ] = None,
) -> None:
    """Say who signed a model; exit code 1 where nobody did whom you trust, or it was altered."""
    policy = Policy("warn", trusted_keys, tuple(identity or ()))
    policy.check()
    if not model.exists():
        raise ArchiveError(f"{model} does not exist", ErrorKind.MODEL_NOT_FOUND)
    signature = verify_model(model, policy)
    if signature.status != "verified":
        raise ArchiveError(
            f"{model} is {signature.status}: {signature.reason}", ErrorKind.UNTRUSTED
        )
    print(f"{model} is as {signature.signer} signed it ({signature_file(model).name})")


def _password(file: Path | None) -> bytes | None:
    if file is None:
        return None
    try:
        return file.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from error
