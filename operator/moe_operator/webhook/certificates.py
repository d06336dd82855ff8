"""Certificates of the webhook: an authority made for one serving certificate, whose key is thrown away after signing.

A successor is made well before the end, with an authority of its own; both authorities are trusted until the older one
ends, so that neither the API server nor another operator process notices the change.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = timedelta(days=90)
RENEWED_BEFORE_END = LIFETIME / 3
SKEW = timedelta(hours=1)
"""How far the clocks of API server and operator may differ."""
AUTHORITIES_KEPT = 3

_PEM = serialization.Encoding.PEM


@dataclass(frozen=True, slots=True)
class Bundle:
    """A serving certificate and who vouches for it; all PEM."""

    authorities: bytes
    """Certificates that the API server trusts, the newest first."""
    certificate: bytes
    key: bytes


def issue(hosts: Sequence[str], now: datetime, before: bytes = b"") -> Bundle:
    """A new certificate for these hosts under a new authority; those in `before` stay trusted until they end."""
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _authority(authority_key, now)
    builder = _builder(_name("moe-operator webhook"), authority.subject, key.public_key(), now)
    certificate = (
        builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_signed_by(authority_key), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    trusted = [authority, *_alive(before, now)][:AUTHORITIES_KEPT]
    return Bundle(_pem(trusted), _pem([certificate]), _key_pem(key))


def is_due(bundle: Bundle, hosts: Sequence[str], now: datetime) -> bool:
    """Whether a bundle must be replaced: it ends soon, bears other names, or does not hold together."""
    try:
        certificate = x509.load_pem_x509_certificates(bundle.certificate)[0]
        key = serialization.load_pem_private_key(bundle.key, password=None)
        authorities = x509.load_pem_x509_certificates(bundle.authorities)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, x509.ExtensionNotFound):
        return True
    return (
        certificate.not_valid_after_utc - now < RENEWED_BEFORE_END
        or certificate.not_valid_before_utc > now
        or certificate.public_key() != key.public_key()
        or all(authority.subject != certificate.issuer for authority in authorities)
        or set(names) != {_host(host) for host in hosts}
    )


def _authority(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    # A name of its own, so that a verifier does not confuse it with its predecessor.
    name = _name(f"moe-operator webhook authority {x509.random_serial_number():x}"[:64])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        _builder(name, name, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + LIFETIME)
    )


def _alive(authorities: bytes, now: datetime) -> list[x509.Certificate]:
    try:
        held = x509.load_pem_x509_certificates(authorities)
    except ValueError:
        return []
    return [authority for authority in held if authority.not_valid_after_utc > now]


def _signed_by(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(certificates: Iterable[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(_PEM) for certificate in certificates)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
