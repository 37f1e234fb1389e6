"""Who is asked for an image, in which order, how, and with which credential.

The first of these that has something for the registry decides: hosts.toml, registries.conf, the settings'
own mirrors; the registry itself comes last, unless one of the files puts another in its place. `blocked` of
registries.conf holds whatever the others say, and certificates without a hosts.toml are for their host
wherever it was named. Files are read again for every pull, so changes need no restart.

Plain http is spoken to hosts in `images.insecure`, to the loopback interface (unless port 443 or
certificates say TLS), and where an administrator's file writes http://. A host that registries.conf calls
insecure is asked over TLS without verification, then over plain http, as that format wants; so is one whose
http:// URL in hosts.toml has TLS settings beside it, as containerd does.

Each host that stands in for the registry by hosts.toml or the settings is told which registry is meant
(`namespace`, the `ns` parameter of containerd's docs/hosts.md); by registries.conf it is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from crib.backends.failures import foreign
from crib.backends.images.registries.config_files import FILES_SECONDS, ConfigFiles
from crib.backends.images.registries.credentials import Credentials, Terms, request_credential
from crib.backends.images.registries.hosts_dirs import HostsDirs, Trust
from crib.host.threads import Job
from crib.model.errors import InvalidRequest, Unavailable
from crib.model.image import ImageReference, PullOrder, parse_reference
from crib.model.image_settings import RegistrySettings
from crib.model.registry import HUB, RegistryHost, canonical_registry, is_loopback, port_of
from crib.wire.docker_config import normalized
from crib.wire.hosts_toml import HostEntry, HostsFile, base_url
from crib.wire.registries_conf import (
    AUTH_FILE,
    Mirror,
    Registry,
    best_match,
    parse_registries,
    rewritten,
)
from crib.wire.toml_table import MalformedToml

_HUB_HOST = "registry-1.docker.io"
_HUB_NAMES = frozenset((HUB, "index.docker.io"))
"""Names of Docker Hub that do not speak the registry's protocol or only redirect."""
MAX_HOSTS = 128


@dataclass(frozen=True, slots=True)
class _Found:
    """A host without its credential, and whether it is named as insecure."""

    host: RegistryHost
    insecure: bool


@dataclass(frozen=True, slots=True)
class _Plan:
    found: tuple[_Found, ...]
    helpers: tuple[str, ...] = (AUTH_FILE,)


@dataclass(frozen=True, slots=True)
class _Conf:
    """registries.conf with its drop-ins; by prefix, with the file that has the last word on it."""

    registries: dict[str, tuple[Registry, str]]
    helpers: tuple[str, ...] = (AUTH_FILE,)


class RegistryHosts:
    """Reads the files that the settings name. One for the daemon; made without looking at any of them."""

    def __init__(self, settings: RegistrySettings) -> None:
        self._settings = settings
        self._files = ConfigFiles()
        self._dirs = HostsDirs(settings.hosts_dirs, self._files)
        self._credentials = Credentials(settings.auth_file, self._files)

    async def hosts(self, order: PullOrder) -> tuple[RegistryHost, ...]:
        """Who is asked, first to last, never nobody.

        InvalidRequest when the image is blocked or the request's credentials are malformed; Unavailable when
        a file of the administrator's cannot be used, or leaves nobody to ask.
        """
        request_credential(order.auth)  # a bad one is refused, no matter which host would be asked
        files = ", ".join(filter(None, (self._settings.registries_conf, *self._settings.hosts_dirs)))
        job = Job(f"reading who is asked for {order.reference}: {files}", files, FILES_SECONDS)
        plan = await foreign(job, self._plan, order.reference)
        hosts = []
        for found in plan.found:
            terms = Terms(found.insecure, plan.helpers)
            hosts.append(
                replace(found.host, credential=await self._credentials.find(found.host, order, terms))
            )
        return tuple(hosts)

    def _plan(self, reference: ImageReference) -> _Plan:
        conf = self._conf()
        match = self._match(conf, reference)
        if match is not None and match[0].blocked:
            raise InvalidRequest(f"{reference} is blocked by {match[1]}", field="image.image")
        directory = self._dirs.directory(reference.registry, default=True)
        hosts = self._dirs.hosts(directory)
        if hosts is not None:
            where = hosts[1]
            found = tuple(self._of_hosts_file(hosts[0], directory, reference))
        elif match is not None:
            where = match[1]
            found = tuple(self._of_registry(match[0], where, reference))
        else:
            where = "images.mirrors"
            found = tuple(self._of_settings(reference))
        asked = tuple(one for one in found if one.host.pulls or (one.host.resolves and not reference.digest))
        pulls = any(one.host.pulls for one in asked)
        if not pulls or not (reference.digest or any(one.host.resolves for one in asked)):
            lacking = "resolve" if pulls else "pull"
            raise Unavailable(f"{where} leaves no host with the capability {lacking} for {reference}")
        if len(asked) > MAX_HOSTS:
            raise Unavailable(
                f"{where} names {len(asked)} hosts for {reference}, at most {MAX_HOSTS} are asked"
            )
        return _Plan(asked, conf.helpers)

    def _conf(self) -> _Conf:
        path = self._settings.registries_conf
        if not path:
            return _Conf({})
        main = self._files.required(path, parse_registries, "images.registries_conf")
        found = {registry.prefix: (registry, path) for registry in map(_canonical, main.registries)}
        helpers = main.helpers
        for name in self._files.names(f"{path}.d") or ():
            drop_in = (
                self._files.load(f"{path}.d/{name}", parse_registries) if name.endswith(".conf") else None
            )
            if drop_in is not None:
                registries = map(_canonical, drop_in.registries)
                found |= {registry.prefix: (registry, f"{path}.d/{name}") for registry in registries}
                helpers = drop_in.helpers if drop_in.helpers is not None else helpers
        return _Conf(found, helpers or (AUTH_FILE,))

    @staticmethod
    def _match(conf: _Conf, reference: ImageReference) -> tuple[Registry, str] | None:
        best = best_match((registry for registry, _ in conf.registries.values()), _text(reference))
        return None if best is None else conf.registries[best.prefix]

    def _of_hosts_file(self, file: HostsFile, directory: str, reference: ImageReference) -> Iterator[_Found]:
        for entry, what in (*((entry, "host") for entry in file.hosts), (file.server, "server")):
            trust = self._dirs.trust_of(entry, directory)
            if entry.url:
                urls = _urls_of_entry(entry)
                reason = f"{what} in {directory}/hosts.toml"
            else:
                urls = [f"{self._scheme(reference.registry, trust)}://{_dialled(reference.registry)}/v2"]
                reason = f"the registry itself, by {directory}/hosts.toml"
            for url in urls:
                found = self._found(url, reference, reason, trust)
                host = replace(found.host, resolves=entry.resolve, pulls=entry.pull, headers=entry.headers)
                if entry.dial_timeout is not None:
                    host = replace(host, connect_timeout=entry.dial_timeout)
                yield replace(found, host=_with_namespace(host, reference))

    def _of_registry(self, registry: Registry, file: str, reference: ImageReference) -> Iterator[_Found]:
        why = f"prefix {registry.prefix} in {file}"
        own = Mirror(registry.location, registry.insecure)
        for mirror in (*registry.mirrors, own):
            # A tag-only mirror serves the whole of a pull by tag, and no pull by digest.
            if mirror.pull == "tag-only" and reference.digest:
                continue
            there = _elsewhere(registry.prefix, mirror.location, reference, file)
            trust = self._dirs.trust_for(there.registry)
            reason = f"location, {why}" if mirror is own else f"mirror, {why}"
            for scheme, skip_verify in self._schemes(there.registry, mirror.insecure, trust):
                url = f"{scheme}://{_dialled(there.registry)}/v2"
                found = self._found(url, reference, reason, replace(trust, skip_verify=skip_verify))
                origin = found.host.is_origin and there.repository == reference.repository
                host = replace(
                    found.host,
                    repository=there.repository,
                    is_origin=origin,
                    # A digest-only mirror may still serve what the registry said a tag means.
                    resolves=mirror.pull != "digest-only",
                )
                yield replace(found, host=host, insecure=found.insecure or mirror.insecure)

    def _of_settings(self, reference: ImageReference) -> Iterator[_Found]:
        mirrors = self._settings.mirrors
        names = (key for key in sorted(mirrors) if canonical_registry(key) == reference.registry)
        name = reference.registry if reference.registry in mirrors else next(names, "")
        for text in mirrors.get(name, ()):
            try:
                url = base_url(text, f"images.mirrors.{name}")
            except MalformedToml as error:
                raise Unavailable(str(error)) from None
            trust = self._dirs.trust_for(urlsplit(url).netloc)
            found = self._found(url, reference, f"mirror in images.mirrors.{name}", trust)
            yield replace(found, host=_with_namespace(found.host, reference))
        trust = self._dirs.trust_for(reference.registry, default=True)
        url = f"{self._scheme(reference.registry, trust)}://{_dialled(reference.registry)}/v2"
        yield self._found(url, reference, "the registry itself", trust)

    def _found(self, url: str, reference: ImageReference, reason: str, trust: Trust) -> _Found:
        parts = urlsplit(url)
        url = f"{parts.scheme}://{_dialled(parts.netloc)}{parts.path}"
        origin = normalized(parts.netloc) == normalized(reference.registry) and parts.path == "/v2"
        return _Found(
            RegistryHost(
                url=url,
                repository=reference.repository,
                reason=reason,
                is_origin=origin,
                authorities=trust.authorities,
                certificates=trust.certificates,
                skip_verify=trust.skip_verify,
            ),
            self._named_insecure(parts.netloc),
        )

    def _named_insecure(self, authority: str) -> bool:
        names = {canonical_registry(normalized(name)) for name in self._settings.insecure}
        return canonical_registry(normalized(authority)) in names

    def _scheme(self, authority: str, trust: Trust) -> str:
        """How a registry is spoken to for which no file writes a scheme."""
        if self._named_insecure(authority):
            return "http"
        local = is_loopback(authority) and not trust.configured and port_of(authority) != "443"
        return "http" if local else "https"

    def _schemes(self, authority: str, insecure: bool, trust: Trust) -> list[tuple[str, bool]]:
        """The same for registries.conf, with whether the certificate goes unverified."""
        if not insecure:
            return [(self._scheme(authority, trust), False)]
        return {"80": [("http", False)], "443": [("https", True)]}.get(
            port_of(authority), [("https", True), ("http", False)]
        )


def _urls_of_entry(entry: HostEntry) -> list[str]:
    scheme, separator, rest = entry.url.partition("://")
    if scheme == "http" and entry.has_tls and port_of(rest.partition("/")[0]) != "80":
        return [f"https{separator}{rest}", entry.url]
    return [entry.url]


def _with_namespace(host: RegistryHost, reference: ImageReference) -> RegistryHost:
    return host if host.is_origin else replace(host, namespace=reference.registry)


def _dialled(authority: str) -> str:
    return _HUB_HOST if authority in _HUB_NAMES else authority


def _text(reference: ImageReference) -> str:
    """As registries.conf's prefixes are compared with it: of a tag and a digest the digest counts."""
    end = f"@{reference.digest}" if reference.digest else f":{reference.tag}"
    return f"{reference.name}{end}"


def _elsewhere(prefix: str, location: str, reference: ImageReference, file: str) -> ImageReference:
    """The reference at another location of registries.conf."""
    text = rewritten(prefix, location, _text(reference))
    try:
        there = parse_reference(text)
    except InvalidRequest as error:
        raise Unavailable(
            f"{file}: prefix {prefix} makes {text[:300]!r} of {reference}: {error.message}"
        ) from None
    # `b.example:1` would be read as a repository of Docker Hub.
    host, slash, _ = text.partition("/")
    if not slash or there.registry != canonical_registry(host):
        raise Unavailable(
            f"{file}: prefix {prefix} makes {text[:300]!r} of {reference}: it has no repository"
        )
    kept = there.digest == reference.digest and (reference.digest or there.tag == reference.tag)
    if not kept:
        raise Unavailable(f"{file}: prefix {prefix} changes the tag or digest of {reference}")
    # Else as the administrator wrote it: a port says what is spoken there.
    return there if there.registry == HUB else replace(there, registry=host)


def _canonical(registry: Registry) -> Registry:
    """With a prefix that is spelled as the names are that it is compared with."""
    host, slash, path = registry.prefix.partition("/")
    host = host.lower() if host.startswith("*") else canonical_registry(host)
    return replace(registry, prefix=f"{host}{slash}{path}")
