#!/usr/bin/env python3
"""Sends the lines of a file, or of standard input, to a Seawall receiver: each is in the stream once.

A record is a line with its newline, or a part of at most 1 MiB of a longer one; its sequence is the offset in the input
behind it (sparse numbering), as `seawall send` has it: either may go on where the other stopped. After a crash or kill of
either end run the same command again, for standard input with the same bytes from the beginning: what lies before the offset
that the receiver names is passed over.

On standard output: `durable OFFSET`, now and then and at the end. Exit code 0: everything is durable; 4: but for lines that
the receiver rejected, which are named; 1: an error.
"""

import argparse
import logging
import os
import ssl
import sys
import time

from seawall_client import SPARSE, WINDOW_BYTES, Source, SourceError

LINE_BYTES_MAX = 1 << 20


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="the file to send; `-` is standard input")
    parser.add_argument("--to", action="append", metavar="ADDRESS", help="host:port [127.0.0.1:7311]; again for others")
    parser.add_argument("--stream", default="", help="the stream's name; by default the receiver's only one")
    parser.add_argument("--source", help='the source\'s name; by default the file\'s without its directory, or "stdin"')
    parser.add_argument("--window", type=int, default=WINDOW_BYTES, metavar="BYTES", help="records held, at most")
    parser.add_argument("--remember", metavar="FILE", help="keep there what is durable: a receiver that lost it is found out")
    parser.add_argument("--report-every", type=float, default=1.0, metavar="SECONDS")
    parser.add_argument("--give-up-after", type=float, metavar="SECONDS", help="without a session; by default never")
    parser.add_argument("--ca", metavar="FILE", help="encrypt, and trust receivers whose certificate these signed (PEM)")
    parser.add_argument("--cert", metavar="FILE", help="show this certificate (PEM)")
    parser.add_argument("--key", metavar="FILE", help="the certificate's key (PEM)")
    parser.add_argument("--server-name", metavar="NAME", help="expect this name in the receiver's certificate")
    parser.add_argument("--token-file", metavar="FILE", help="show the token that this file holds")
    parser.add_argument("--plaintext-beyond-loopback", action="store_true")
    return parser.parse_args()


def tls(args):
    if not args.ca:
        if args.cert or args.key or args.server_name:
            raise SourceError("--cert, --key and --server-name go with --ca")
        return None
    context = ssl.create_default_context(cafile=args.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if args.cert:
        context.load_cert_chain(args.cert, args.key)
    return context


def token(args):
    if not args.token_file:
        return b""
    with open(args.token_file, "rb") as file:
        return file.read().strip()


class Remembered:
    """The highest offset that was ever told to be durable, in a file that is replaced whole."""

    def __init__(self, path):
        self.path = path

    def read(self):
        if self.path is None or not os.path.exists(self.path):
            return 0
        with open(self.path) as file:
            return int(file.read())

    def write(self, durable):
        if self.path is not None:
            with open(self.path + ".new", "w") as file:
                file.write(f"{durable}\n")
            os.replace(self.path + ".new", self.path)


def pass_over(file, offset):
    """Goes to the offset; by reading, where there is no other way."""
    if file.seekable():
        length = file.seek(0, os.SEEK_END)
        file.seek(min(offset, length))
        return length
    at = 0
    while at < offset and (read := len(file.read(min(1 << 20, offset - at)))):
        at += read
    return at


def send(args, file):
    """Sends what is not durable yet; returns how many records were rejected."""
    name = args.source or ("stdin" if args.file == "-" else os.path.basename(args.file))
    remembered = Remembered(args.remember)
    rejects = []
    told_at = time.monotonic()

    def tell(durable):
        remembered.write(durable)
        print("durable", durable, flush=True)

    def on_durable(durable):
        nonlocal told_at
        now = time.monotonic()
        if now - told_at >= args.report_every:
            told_at = now
            tell(durable)

    def on_reject(reject):
        rejects.append(reject)
        print(f"the {reject.bytes} bytes before offset {reject.seq} were rejected", file=sys.stderr)

    with Source(
        args.to or ["127.0.0.1:7311"], name.encode(), stream=args.stream, token=token(args), numbering=SPARSE,
        told_durable=remembered.read(), tls=tls(args), server_name=args.server_name,
        plaintext_beyond_loopback=args.plaintext_beyond_loopback, window_bytes=args.window,
        on_durable=on_durable, on_reject=on_reject, give_up_after=args.give_up_after,
    ) as source:  # fmt: skip
        offset = source.durable
        length = pass_over(file, offset)
        if length < offset:
            raise SourceError(f"the receiver has {offset} bytes of source {name!r}, {args.file} has only {length}")
        while line := file.readline(LINE_BYTES_MAX):
            offset += len(line)
            source.send(line, offset)
        durable = source.close()
    tell(durable)
    return len(rejects)


def main():
    args = options()
    logging.basicConfig(format="%(message)s")
    try:
        with sys.stdin.buffer if args.file == "-" else open(args.file, "rb") as file:
            return 4 if send(args, file) else 0
    except (SourceError, OSError, ValueError) as error:
        print(f"send_lines: {args.file}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
