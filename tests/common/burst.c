/*
 * Many events and little else: executes itself N times, or makes N connections to itself.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

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

int main(int argc, char **argv)
{
	int n = argc > 2 ? atoi(argv[2]) : 0;
	char next[16];
	char *args[] = { argv[0], "exec", next, NULL };

	if (argc > 1 && !strcmp(argv[1], "connect"))
		return connections(n);
	if (n == 0)
		return 0;
	snprintf(next, sizeof(next), "%d", n - 1);
	execv(argv[0], args);
	return 4;
}
