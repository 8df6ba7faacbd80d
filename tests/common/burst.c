/*
 * Many events and little else:
 *
 * exec N         executes itself N times
 * connect N      makes N connections to itself
 * reuse N        has N children one after the other, all with the same process id, each of which executes itself
 *                and ends with its number modulo 200
 * dns SERVER     asks for `db` and `asker` over TCP, in a segment a byte and with both in one
 * clock          executes itself in a time namespace of its own
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

static int connections(int n)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	/* A reset leaves no port in TIME_WAIT. */
	struct linger reset = { .l_onoff = 1 };
	socklen_t len = sizeof(to);
	int server = socket(AF_INET, SOCK_STREAM, 0);

	if (bind(server, (void *)&to, len) || listen(server, 16) || getsockname(server, (void *)&to, &len))
		return 1;
	while (n--) {
		int client = socket(AF_INET, SOCK_STREAM, 0), accepted;

		setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		if (connect(client, (void *)&to, sizeof(to)))
			return 2;
		accepted = accept(server, NULL, NULL);
		if (accepted < 0)
			return 3;
		close(client);
		close(accepted);
	}
	return 0;
}

/* The arguments of clone3(2) up to and with the list of process ids. */
struct clone_arguments {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size;
};

static int reuse(char *self, int n)
{
	pid_t wanted = 0;
	char number[16];

	for (int i = 0, refused = 0; i < n;) {
		struct clone_arguments arguments = {
			.exit_signal = SIGCHLD,
			.set_tid = wanted ? (uintptr_t)&wanted : 0,
			.set_tid_size = wanted ? 1 : 0,
		};
		pid_t child = syscall(SYS_clone3, &arguments, sizeof(arguments));
		int status;

		if (child < 0 && errno == EEXIST && refused++ < 1000)
			continue; /* somebody else's for the moment */
		if (child < 0)
			return 5;
		if (!child) {
			snprintf(number, sizeof(number), "%d", i % 200);
			execl(self, self, "end", number, NULL);
			_exit(255);
		}
		wanted = child;
		if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != i % 200)
			return 6;
		i++;
	}
	return 0;
}

/* A query with its length before it; how many bytes both have. */
static int query(unsigned char *to, int id, const char *name)
{
	int label = strlen(name), size = 12 + 1 + label + 1 + 4;

	memset(to, 0, 2 + size);
	to[0] = size >> 8;
	to[1] = size;
	to[2] = id >> 8;
	to[3] = id;
	to[4] = 1; /* recursion desired */
	to[7] = 1; /* one question */
	to[14] = label;
	memcpy(to + 15, name, label);
	to[2 + size - 3] = 1; /* A */
	to[2 + size - 1] = 1; /* IN */
	return 2 + size;
}

static int whole(int fd, unsigned char *to, int len)
{
	for (int got = 0, n; got < len; got += n) {
		n = read(fd, to + got, len - got);
		if (n <= 0)
			return -1;
	}
	return 0;
}

static int answers(int fd, int n)
{
	unsigned char bytes[65536];

	while (n--)
		if (whole(fd, bytes, 2) || whole(fd, bytes + 2, bytes[0] << 8 | bytes[1]))
			return -1;
	return 0;
}

static int dns(const char *server)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(53) };
	int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1, len;
	unsigned char bytes[256];

	inet_pton(AF_INET, server, &to.sin_addr);
	if (connect(fd, (void *)&to, sizeof(to)) || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)))
		return 7;
	len = query(bytes, 1, "db");
	for (int i = 0; i < len; i++)
		if (write(fd, bytes + i, 1) != 1)
			return 8;
	if (answers(fd, 1))
		return 9;
	len = query(bytes, 2, "db");
	len += query(bytes + len, 3, "asker");
	if (write(fd, bytes, len) != len || answers(fd, 2))
		return 10;
	close(fd);
	return 0;
}

static int clock_namespace(char *self)
{
	int status;

	if (unshare(CLONE_NEWTIME))
		return 11;
	if (!fork()) {
		execl(self, self, "end", "0", NULL);
		_exit(255);
	}
	return wait(&status) < 0 || status;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	int n = argc > 2 ? atoi(argv[2]) : 0;
	char next[16];
	char *args[] = { argv[0], "exec", next, NULL };

	if (!strcmp(what, "connect"))
		return connections(n);
	if (!strcmp(what, "reuse"))
		return reuse(argv[0], n);
	if (!strcmp(what, "dns"))
		return dns(argc > 2 ? argv[2] : "");
	if (!strcmp(what, "clock"))
		return clock_namespace(argv[0]);
	if (!strcmp(what, "end") || n == 0)
		return n;
	snprintf(next, sizeof(next), "%d", n - 1);
	execv(argv[0], args);
	return 4;
}
