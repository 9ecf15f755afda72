"""A timestamping authority (RFC 3161) of our own, at an address of this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from asn1crypto import algos, cms, core, tsp
from asn1crypto import x509 as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class Authority:
    """A root certificate, and one below it that may sign timestamps."""

    def __init__(self, name: str = "Test") -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.root = self._certificate(f"{name} root", self._root_key, None)
        self.certificate = self._certificate(f"{name} authority", self._key, self.root)
        self.asked: list[bytes] = []
        """Every query that came."""
        self.broken: str | None = None
        """What is wrong with the replies: `nonce`, `digest`, `refused` or `rubbish`."""

    def _certificate(self, name: str, key: Any, above: x509.Certificate | None) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(above.subject if above else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - timedelta(days=1))
            .not_valid_after(self.now + timedelta(days=9))
            .add_extension(x509.BasicConstraints(ca=above is None, path_length=None), critical=True)
        )
        if above is not None:
            usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
            made = made.add_extension(usage, critical=True)
        return made.sign(self._root_key, hashes.SHA256())

    def pem(self) -> bytes:
        """The root certificate, as whoever verifies trusts it."""
        return self.root.public_bytes(Encoding.PEM)

    def reply(self, query: bytes) -> bytes:
        """The answer to a query."""
        self.asked.append(query)
        asked = tsp.TimeStampReq.load(query)
        if self.broken == "rubbish":
            return b"no token"
        if self.broken == "refused":
            return bytes.fromhex("30053003020102")  # A PKIStatusInfo alone: 2, rejection.
        imprint, nonce = asked["message_imprint"].copy(), asked["nonce"].native
        if self.broken == "digest":
            imprint["hashed_message"] = hashlib.sha256(b"something else").digest()
        about = tsp.TSTInfo(
            {
                "version": "v1",
                "policy": "1.3.6.1.4.1.99999.1",
                "message_imprint": imprint,
                "serial_number": len(self.asked),
                "gen_time": self.now,
                "nonce": nonce + 1 if self.broken == "nonce" else nonce,
            }
        )
        token = self._signed(about.dump())
        return bytes(tsp.TimeStampResp({"status": {"status": "granted"}, "time_stamp_token": token}).dump())

    def _signed(self, content: bytes) -> cms.ContentInfo:
        der = self.certificate.public_bytes(Encoding.DER)
        certificate = asn1.Certificate.load(der)
        sha256 = algos.DigestAlgorithm({"algorithm": "sha256"})
        own = tsp.ESSCertIDv2({"hash_algorithm": sha256, "cert_hash": hashlib.sha256(der).digest()})
        attributes = cms.CMSAttributes(
            [
                {"type": "content_type", "values": ["tst_info"]},
                {"type": "message_digest", "values": [hashlib.sha256(content).digest()]},
                {"type": "signing_certificate_v2", "values": [tsp.SigningCertificateV2({"certs": [own]})]},
            ]
        )
        signer = cms.SignerInfo(
            {
                "version": "v1",
                "sid": cms.SignerIdentifier(
                    "issuer_and_serial_number",
                    {"issuer": certificate.issuer, "serial_number": certificate.serial_number},
                ),
                "digest_algorithm": sha256,
                "signed_attrs": attributes,
                "signature_algorithm": {"algorithm": "sha256_ecdsa"},
                "signature": self._key.sign(attributes.dump(), ec.ECDSA(hashes.SHA256())),
            }
        )
        signed = cms.SignedData(
            {
                "version": "v3",
                "digest_algorithms": [sha256],
                "encap_content_info": {
                    "content_type": "tst_info",
                    "content": core.ParsableOctetString(content),
                },
                "certificates": [certificate],
                "signer_infos": [signer],
            }
        )
        return cms.ContentInfo({"content_type": "signed_data", "content": signed})


@contextmanager
def serving(authority: Authority) -> Iterator[str]:
    """The address at which the authority answers while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "application/timestamp-query"
            answer = authority.reply(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
