/* tcp_watch.h - the end of a connection whose other end has vanished; for hosts that use libuv. */
#ifndef TCP_WATCH_H
#define TCP_WATCH_H

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <uv.h>

/* A machine that vanishes closes no connection. On Linux one ends when nothing was acknowledged for
 * so long, what is being opened as well; elsewhere what the system does about silence is begun. */
static inline void tcp_watch(uv_tcp_t *tcp, unsigned seconds)
{
    uv_tcp_keepalive(tcp, 1, (seconds + 1) / 2);
#ifdef TCP_USER_TIMEOUT
    int fd, every = 1, ms = (int)seconds * 1000;

    if (uv_fileno((uv_handle_t *)tcp, &fd) == 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof every);
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof ms);
    }
#endif
}

#endif
