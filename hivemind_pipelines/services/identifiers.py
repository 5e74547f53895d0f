"""Structured personal identifiers in any text: a cheap shape first, then the checksum or numbering plan."""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from hivemind_pipelines.core.model import Finding


def find_identifiers(text: str, shapes: Iterable["Shape"]) -> list[Finding]:
    """What of the shapes is valid, as [start, end) in code points; a number inside another is no telephone."""
    found: list[Finding] = []
    for shape in shapes:
        for start, end in shape.spans(text):
            is_taken = shape.yields and any(one.start < end and start < one.end for one in found)
            if not is_taken and shape.is_valid(text, start, end):
                found.append(Finding(start, end, shape.type, shape.score))
    return found


@dataclass(frozen=True, slots=True)
class Shape:
    """How a kind of identifier is written, and the test that tells it from any other number.

    `hint` matches within everything valid that `pattern` finds, `before` characters behind its start at most.
    A shape that `yields` comes last and leaves alone what another has found.
    """

    type: str
    pattern: re.Pattern[str]
    is_valid: Callable[[str, int, int], bool]
    hint: re.Pattern[str]
    before: int = 0
    score: float = 1.0
    yields: bool = False

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where the pattern matches around hints, in order and without overlaps; between them nothing is tried."""
        reached = 0
        for near in self.hint.finditer(text):
            for place in range(max(reached, near.start() - self.before), near.end()):
                if place >= reached and (match := self.pattern.match(text, place)):
                    yield match.span()
                    reached = match.end()
            reached = max(reached, near.end())


_EMAIL = re.compile(
    r"(?<![\w.+%/@:-])[^\W_](?:[\w.!#$%&'*+?^{|}~-]{0,62}[\w+])?@"
    r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w@])"
)
_RESERVED_DOMAIN = re.compile(
    r"(?i)@(?:[\w-]+\.)*(?:example\.(?:com|org|net|edu)|example|test|invalid|localhost|local|internal|localdomain"
    r"|(?:your|my|some|email|mail)?-?(?:domain|company|email|address|server|host|site)\.(?:com|org|net|tld)"
    r"|users\.noreply\.github\.com)$"
)
_STAND_IN = re.compile(
    r"(?i)^(?:(?:your|my)[\w.+-]*|user(?:name)?\d?|e?mail|name|me|you|someone|foo|bar|no-?reply|git|hg|svn|aur)@"
)
_FILE_SUFFIX = re.compile(
    r"(?i)\.(?:txt|md|json|ya?ml|toml|plist|service|socket|timer|target|mount|conf|cfg|sh|py|rb|js|ts|css|html|png|jpg|zip|gz)$"
)


def _is_email(text: str, start: int, end: int) -> bool:
    """An address at a domain that can exist, neither a stand-in nor a file, unit or scp target."""
    address = text[start:end]
    if any(pattern.search(address) for pattern in (_RESERVED_DOMAIN, _STAND_IN, _FILE_SUFFIX)):
        return False
    return not re.match(r":[\w/~.]", text[end : end + 2])


_IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]{4}){2,7}(?:[ -]?[A-Za-z0-9]{1,3})?(?![A-Za-z0-9])"
)
_IBAN_LENGTHS = {
    **dict.fromkeys(("NO",), 15),
    **dict.fromkeys(("BE",), 16),
    **dict.fromkeys(("DK", "FI", "FK", "FO", "GL", "NL", "SD"), 18),
    **dict.fromkeys(("MK", "SI"), 19),
    **dict.fromkeys(("AT", "BA", "EE", "KZ", "LT", "LU", "MN", "XK"), 20),
    **dict.fromkeys(("CH", "CR", "HR", "LI", "LV"), 21),
    **dict.fromkeys(("BG", "BH", "DE", "GB", "GE", "IE", "ME", "RS", "VA"), 22),
    **dict.fromkeys(("AE", "GI", "IL", "IQ", "OM", "SO", "TL"), 23),
    **dict.fromkeys(("AD", "CZ", "ES", "MD", "PK", "RO", "SA", "SE", "SK", "TN", "VG"), 24),
    **dict.fromkeys(("LY", "PT", "ST"), 25),
    **dict.fromkeys(("IS", "TR"), 26),
    **dict.fromkeys(("BI", "DJ", "FR", "GR", "IT", "MC", "MR", "SM"), 27),
    **dict.fromkeys(("AL", "AZ", "BY", "CY", "DO", "GT", "HU", "LB", "NI", "PL", "SV"), 28),
    **dict.fromkeys(("BR", "EG", "PS", "QA", "UA"), 29),
    **dict.fromkeys(("JO", "KW", "MU", "YE"), 30),
    **dict.fromkeys(("MT", "SC"), 31),
    **dict.fromkeys(("LC",), 32),
    **dict.fromkeys(("RU",), 33),
}


def _is_iban(text: str, start: int, end: int) -> bool:
    """ISO 13616: the country's length and mod 97 = 1."""
    compact = re.sub(r"[ -]", "", text[start:end]).upper()
    if _IBAN_LENGTHS.get(compact[:2]) != len(compact):
        return False
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1


_CARD = re.compile(r"(?<![\w.+-])(?<!\d[ -])(?:\d[ -]?){11,18}\d(?![\w-])(?!\.\d)")
_ISSUERS: tuple[tuple[re.Pattern[str], range], ...] = (
    (re.compile(r"4"), range(13, 20)),
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), range(16, 17)),
    (re.compile(r"3[47]"), range(15, 16)),
    (re.compile(r"6011|64[4-9]|65|622"), range(16, 20)),
    (re.compile(r"35"), range(15, 20)),
    (re.compile(r"2131|1800"), range(15, 16)),
    (re.compile(r"30[0-5]|3095|36|38|39"), range(14, 20)),
    (re.compile(r"5018|5020|5038|5893|6304|6759|676[1-3]|0604|58|60|62|67"), range(12, 20)),
)


def _is_card(text: str, start: int, end: int) -> bool:
    """An issuer's prefix and length, and the Luhn digit of ISO/IEC 7812."""
    digits = re.sub(r"[ -]", "", text[start:end])
    issued = any(prefix.match(digits) and len(digits) in lengths for prefix, lengths in _ISSUERS)
    return issued and len(set(digits)) > 2 and _luhn(digits)


def _luhn(digits: str) -> bool:
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(doubled) + sum(int(digit) for digit in digits[-1::-2])) % 10 == 0


_IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_VERSION_BEFORE = re.compile(
    r"(?i)(?:\bv|\bver|version|release|build|==|>=|<=|~=|@)\W{0,3}$|(?<![\d.])\d+\.\d+\.\d+[\s,(|]+$"
)
_ADDRESS_BEFORE = re.compile(r"(?i)\b(?:ip|host|address|server|from|ping|client|visitor|user)\b")
_PUBLIC_RESOLVERS = frozenset(
    ("1.1.1.1", "1.0.0.1", "8.8.8.8", "8.8.4.4", "9.9.9.9", "208.67.222.222", "208.67.220.220", "4.2.2.2")
)
#: Four numbers below this look like a version, unless a word before them says address.
_VERSION_PART_MAX = 20


def _is_public_ip(text: str, start: int, end: int) -> bool:
    """An address of somebody: neither private, reserved, documentation nor a public resolver."""
    value, before = text[start:end], text[max(0, start - 40) : start]
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    if value in _PUBLIC_RESOLVERS or _VERSION_BEFORE.search(before):
        return False
    if max(address.packed) < _VERSION_PART_MAX and not _ADDRESS_BEFORE.search(before):
        return False
    return address.is_global and not address.is_multicast


_SSN = re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])")


def _is_issued(text: str, start: int, end: int) -> bool:
    """The Social Security Administration never issues areas 000 and 666, group 00 and serial 0000."""
    area, group, serial = text[start:end].split("-")
    return area not in ("000", "666") and group != "00" and serial != "0000"


_EXTENSION = r"(?:\s?(?:x|ext\.?)\s?\d{1,6})?"
_PHONE = re.compile(
    r"(?<![\w.,:/@#=+-])(?<![\d)][ .-])(?:\+|00)?(?:\(\d{1,5}\)|\d{1,5}+)"
    rf"(?:[ .-]{{0,2}}+(?:\(\d{{1,5}}\)|\d{{1,5}}+)){{1,7}}{_EXTENSION}(?![\w]|[.,:/-]\d)"
)
_PHONE_CONTEXT = re.compile(
    r"(?i)\b(?:tele(?:phone|fon)?|phone|tel|mobile|cell(?:phone)?|fax|call|dial|desk|whatsapp|sms|text me|hotline"
    r"|reach (?:me|us|him|her|them)|number|landline|contact)\b[^\n]{0,40}$"
)
_NOT_PHONE = re.compile(
    r"(?:19|20)\d\d[-./ ](?:0?[1-9]|1[0-2])[-./ ](?:0?[1-9]|[12]\d|3[01])"  # dates, year first
    r"|(?:0?[1-9]|[12]\d|3[01])[-./](?:0?[1-9]|1[0-2])[-./](?:19|20)?\d\d$"  # dates, year last
    r"|\d+\.\d+$"  # decimals
    r"|(?:\d{1,3}\.){3}\d{1,3}(?!\d)"  # addresses
    r"|(?:\d{1,2} )+\d{1,2}$"  # lists of small numbers
)
_NANP = re.compile(
    r"(?:(?:\+|00)?1[ .-]?)?(?:\([2-9]\d\d\) ?|[2-9]\d\d[-. ])[2-9]\d\d[-.]\d{4}" + _EXTENSION + "$"
)
_REGIONS = (
    *("US", "GB", "DE", "FR", "CH", "AT", "IT", "ES", "AU", "BE"),
    *("NL", "SE", "DK", "NO", "CZ", "PL", "HU", "IN", "BR"),
)


def _is_phone(text: str, start: int, end: int) -> bool:
    """International or North American as written; anything else needs a word that says telephone."""
    shape, before = text[start:end], text[max(0, start - 60) : start]
    digits = re.sub(r"\D", "", re.split(r"(?i)x|ext", shape)[0])
    is_announced = _PHONE_CONTEXT.search(before) is not None
    if not 6 <= len(digits) <= 16:
        return False
    if _NOT_PHONE.match(shape) and not (is_announced and shape.startswith("0")):
        return False
    if shape.startswith(("+", "00")) or _NANP.match(shape):
        return _is_possible(shape)
    if shape.isdigit() and len(digits) < 9:
        return False
    return is_announced or (shape.startswith(("0", "(")) and len(digits) >= 8 and _is_valid_somewhere(shape))


def _is_possible(shape: str) -> bool:
    import phonenumbers

    international = re.sub(r"^00", "+", shape)
    try:
        return phonenumbers.is_possible_number(phonenumbers.parse(international, "US"))
    except phonenumbers.NumberParseException:
        return False


def _is_valid_somewhere(shape: str) -> bool:
    import phonenumbers

    for region in _REGIONS:
        try:
            if phonenumbers.is_valid_number(phonenumbers.parse(shape, region)):
                return True
        except phonenumbers.NumberParseException:
            continue
    return False


#: The shortest telephone number has six digits.
_SIX_DIGITS = re.compile(r"\d(?:[ .()-]{0,4}\d){5}")
_TWELVE_DIGITS = re.compile(r"\d(?:[ -]?\d){11}")
_FOUR_NUMBERS = re.compile(r"\d\.\d{1,3}\.\d{1,3}\.\d")
#: The first group of every address that is routed begins with a 2.
_TWO_GROUPS = re.compile(r"\d[0-9A-Fa-f]{0,3}:[0-9A-Fa-f]{0,4}:")
_THREE_NUMBERS = re.compile(r"\d{3}-\d{2}-\d{4}")
_AT_A_DOMAIN = re.compile(r"[\w+]@[^\W_][\w-]{0,62}\.")
_COUNTRY_AND_DIGITS = re.compile(r"[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]{4}){2}")

#: E-mail addresses, IBANs, payment cards, public IP addresses, US SSNs and telephone numbers.
SHAPES: tuple[Shape, ...] = (
    Shape("EMAIL", _EMAIL, _is_email, hint=_AT_A_DOMAIN, before=64),
    Shape("IBAN", _IBAN, _is_iban, hint=_COUNTRY_AND_DIGITS),
    Shape("CREDIT_CARD", _CARD, _is_card, hint=_TWELVE_DIGITS),
    Shape("IP_ADDRESS", _IPV4, _is_public_ip, hint=_FOUR_NUMBERS, before=2),
    Shape("IP_ADDRESS", _IPV6, _is_public_ip, hint=_TWO_GROUPS, before=3),
    Shape("US_SSN", _SSN, _is_issued, hint=_THREE_NUMBERS),
    Shape("PHONE", _PHONE, _is_phone, hint=_SIX_DIGITS, before=3, score=0.8, yields=True),
)
