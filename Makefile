# imds-filterd: build, show, test, install. Portable make (GNU and BSD).
#
#   make            build the programs (release)
#   make demo       as root: a private network with a metadata service, both daemons, users allowed and refused
#   make check      tests that need neither root nor network; installs nothing (for packagers)
#   make test       every test; as root; installs what it needs
#   make fuzz       every fuzz target for FUZZ_SECONDS=60, as many at once as there are processors
#   make freebsd    lints and links everything for FreeBSD, from Linux; tests/freebsd/run.sh then runs it there
#   make bench      as root: imds-filterd beside nginx and a direct connection, side by side; BENCH_ROUNDS=5;
#                   BENCH=PARTS measures parts alone: rows,ladder,limits,open,rules,processes,traffic,idle;
#                   make bench-record then puts tables and charts into README.md and docs/bench
#   make deb        a Debian package, into target/deb
#   make soak       as root: filterd killed, restarted and reloaded a hundred times each under load, interceptor restarted
#   make install    into $(DESTDIR)$(PREFIX), as OS=$(uname -s) wants it; `make uninstall` takes it away again
CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
BINDIR = $(PREFIX)/bin
SBINDIR = $(PREFIX)/sbin
OS != uname -s
SYSCONFDIR_Linux = /etc
SYSCONFDIR_FreeBSD = $(PREFIX)/etc
SYSCONFDIR ?= $(SYSCONFDIR_$(OS))
RUNDIR_Linux = /run
RUNDIR_FreeBSD = /var/run
RUNDIR ?= $(RUNDIR_$(OS))
# no: the samples alone, for a package that puts the files themselves where none are
CONFIGURE ?= yes
UNITDIR ?= /usr/lib/systemd/system
SYSUSERSDIR ?= /usr/lib/sysusers.d
TMPFILESDIR ?= /usr/lib/tmpfiles.d
MANDIR = $(PREFIX)/share/man
DOCDIR = $(PREFIX)/share/doc/imds-filterd
BASHDIR = $(PREFIX)/share/bash-completion/completions
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
FISHDIR = $(PREFIX)/share/fish/vendor_completions.d
INSTALL ?= install
RELEASE ?= target/release
FUZZ_SECONDS ?= 60
BENCH_ROUNDS ?= 5
BENCH ?=

DAEMONS = imds-interceptor imds-filterd
TOOLS = imdsctl imds-mock
UNITS = imds-interceptor.service imds-filterd.service imds-filterd-reload.path imds-filterd-reload.service
MAN1 = imds-mock.1
MAN5 = imds.conf.5 imds-filterd.toml.5
MAN8 = imds-interceptor.8 imds-filterd.8 imdsctl.8
RC_SCRIPTS = imds_interceptor imds_filterd

all: build

build:
	$(CARGO) build --locked --release -p imds-interceptor -p imds-filterd -p imdsctl -p imds-mock

deps:
	@sh tests/deps.sh

demo: deps
	$(CARGO) build --locked --workspace --bins
	sh tests/demo.sh

check:
	$(CARGO) test --locked --offline -p imds-ipc -p imds-settings -p imds-rules -p imds-filterd -p imdsctl -p imds-mock
	$(CARGO) test --locked --offline -p imds-interceptor --lib
	$(CARGO) test --locked --offline -p imds-tests --test layering

test: deps
	$(CARGO) build --locked --workspace --bins
	sh tests/clients/install.sh
	$(CARGO) test --locked --workspace --no-fail-fast
	$(CARGO) test --locked --manifest-path fuzz/Cargo.toml --target-dir target

# libFuzzer is C++; its programs are built apart from everything else
fuzz: deps
	CARGO="$(CARGO)" FUZZ_SECONDS="$(FUZZ_SECONDS)" sh fuzz/run.sh

freebsd: deps
	sh tests/freebsd/cross.sh check
	sh tests/freebsd/cross.sh link

bench: deps
	$(CARGO) build --locked --release -p imds-interceptor -p imds-filterd -p imds-tests --bins
	nginx=$$(sh tests/bench/nginx.sh "$$(pwd)/target/nginx") && \
		$(RELEASE)/imds-bench --rounds $(BENCH_ROUNDS) --nginx "$$nginx" $(BENCH:%=--only %)

deb: build
	sh packaging/deb/build.sh $(RELEASE) target/deb

soak: deps
	$(CARGO) build --locked --release -p imds-interceptor -p imds-filterd -p imdsctl -p imds-mock -p imds-tests --bins
	$(RELEASE)/imds-lab run --timeout 900 --rules tests/soak/imds.conf -- imds-soak run --worst 900
	$(CARGO) test --locked -p imds-interceptor --test store

install:
	$(INSTALL) -d $(DESTDIR)$(SBINDIR) $(DESTDIR)$(BINDIR) $(DESTDIR)$(SYSCONFDIR) $(DESTDIR)$(DOCDIR)
	for p in $(DAEMONS); do $(INSTALL) -m 755 $(RELEASE)/$$p $(DESTDIR)$(SBINDIR)/$$p || exit 1; done
	for p in $(TOOLS); do $(INSTALL) -m 755 $(RELEASE)/$$p $(DESTDIR)$(BINDIR)/$$p || exit 1; done
	for f in imds.conf imds-filterd.toml; do \
		sed -e 's|"/etc/|"$(SYSCONFDIR)/|' -e 's|"/run/|"$(RUNDIR)/|' conf/$$f > $(DESTDIR)$(SYSCONFDIR)/$$f.sample && \
		chmod 644 $(DESTDIR)$(SYSCONFDIR)/$$f.sample || exit 1; \
		test $(CONFIGURE) != yes || test -e $(DESTDIR)$(SYSCONFDIR)/$$f || \
			$(INSTALL) -m 644 $(DESTDIR)$(SYSCONFDIR)/$$f.sample $(DESTDIR)$(SYSCONFDIR)/$$f || exit 1; done
	$(INSTALL) -m 644 README.md ARCHITECTURE.md LICENSE $(DESTDIR)$(DOCDIR)
	$(INSTALL) -d $(DESTDIR)$(MANDIR)/man1 $(DESTDIR)$(MANDIR)/man5 $(DESTDIR)$(MANDIR)/man8
	for m in $(MAN1); do $(INSTALL) -m 644 man/$$m $(DESTDIR)$(MANDIR)/man1/$$m || exit 1; done
	for m in $(MAN5); do $(INSTALL) -m 644 man/$$m $(DESTDIR)$(MANDIR)/man5/$$m || exit 1; done
	for m in $(MAN8); do $(INSTALL) -m 644 man/$$m $(DESTDIR)$(MANDIR)/man8/$$m || exit 1; done
	$(INSTALL) -d $(DESTDIR)$(BASHDIR) $(DESTDIR)$(ZSHDIR) $(DESTDIR)$(FISHDIR)
	for p in $(TOOLS); do \
		if [ $$p = imdsctl ]; then how=completions; else how=--completions; fi; \
		$(RELEASE)/$$p $$how bash >$(DESTDIR)$(BASHDIR)/$$p && \
		$(RELEASE)/$$p $$how zsh >$(DESTDIR)$(ZSHDIR)/_$$p && \
		$(RELEASE)/$$p $$how fish >$(DESTDIR)$(FISHDIR)/$$p.fish && \
		chmod 644 $(DESTDIR)$(BASHDIR)/$$p $(DESTDIR)$(ZSHDIR)/_$$p $(DESTDIR)$(FISHDIR)/$$p.fish || exit 1; done
	if [ "$(OS)" = Linux ]; then \
		$(INSTALL) -d $(DESTDIR)$(UNITDIR) $(DESTDIR)$(SYSUSERSDIR) $(DESTDIR)$(TMPFILESDIR) && \
		$(INSTALL) -m 644 systemd/imds-filterd.sysusers $(DESTDIR)$(SYSUSERSDIR)/imds-filterd.conf && \
		$(INSTALL) -m 644 systemd/imds-filterd.tmpfiles $(DESTDIR)$(TMPFILESDIR)/imds-filterd.conf && \
		$(INSTALL) -m 644 systemd/own-user.conf $(DESTDIR)$(DOCDIR) && \
		for u in $(UNITS); do sed -e "s|@SBINDIR@|$(SBINDIR)|" -e "s|@BINDIR@|$(BINDIR)|" systemd/$$u > $(DESTDIR)$(UNITDIR)/$$u && \
			chmod 644 $(DESTDIR)$(UNITDIR)/$$u || exit 1; done; fi
	if [ "$(OS)" = FreeBSD ]; then \
		$(INSTALL) -d $(DESTDIR)$(PREFIX)/etc/rc.d && \
		for f in syslog newsyslog; do \
			d=$$f.d; [ $$f = syslog ] || d=$$f.conf.d; \
			$(INSTALL) -d $(DESTDIR)$(PREFIX)/etc/$$d && \
			$(INSTALL) -m 644 conf/freebsd/$$f.conf $(DESTDIR)$(PREFIX)/etc/$$d/imds-filterd.conf.sample || exit 1; done && \
		for s in $(RC_SCRIPTS); do $(INSTALL) -m 555 rc.d/$$s $(DESTDIR)$(PREFIX)/etc/rc.d/$$s || exit 1; done; fi

# Configuration that was changed stays; what is still as it was shipped goes.
uninstall:
	for f in imds.conf imds-filterd.toml; do \
		cmp -s $(DESTDIR)$(SYSCONFDIR)/$$f $(DESTDIR)$(SYSCONFDIR)/$$f.sample && rm -f $(DESTDIR)$(SYSCONFDIR)/$$f; \
		rm -f $(DESTDIR)$(SYSCONFDIR)/$$f.sample; done
	for p in $(DAEMONS); do rm -f $(DESTDIR)$(SBINDIR)/$$p; done
	for p in $(TOOLS); do rm -f $(DESTDIR)$(BINDIR)/$$p; done
	for u in $(UNITS); do rm -f $(DESTDIR)$(UNITDIR)/$$u; done
	for s in $(RC_SCRIPTS); do rm -f $(DESTDIR)$(PREFIX)/etc/rc.d/$$s; done
	rm -f $(DESTDIR)$(SYSUSERSDIR)/imds-filterd.conf $(DESTDIR)$(TMPFILESDIR)/imds-filterd.conf
	for p in $(TOOLS); do rm -f $(DESTDIR)$(BASHDIR)/$$p $(DESTDIR)$(ZSHDIR)/_$$p $(DESTDIR)$(FISHDIR)/$$p.fish; done
	for d in syslog.d newsyslog.conf.d; do rm -f $(DESTDIR)$(PREFIX)/etc/$$d/imds-filterd.conf.sample; done
	for m in $(MAN1); do rm -f $(DESTDIR)$(MANDIR)/man1/$$m; done
	for m in $(MAN5); do rm -f $(DESTDIR)$(MANDIR)/man5/$$m; done
	for m in $(MAN8); do rm -f $(DESTDIR)$(MANDIR)/man8/$$m; done
	rm -rf $(DESTDIR)$(DOCDIR)

# charts and tables of the last run, into docs/bench and README.md
bench-record:
	sh tests/bench/record.sh

.PHONY: all build deps demo check test fuzz freebsd bench bench-record soak deb install uninstall
