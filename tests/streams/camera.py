"""A network camera: GStreamer's RTSP server with a test picture. Prints its address, and plays until it is ended.

    camera.py [basic|digest USER PASSWORD]
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer

Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service("0")
factory = GstRtspServer.RTSPMediaFactory()
picture = "videotestsrc is-live=true pattern=smpte ! video/x-raw,width=320,height=240,framerate=30/1"
factory.set_launch(f"( {picture} ! openh264enc gop-size=30 ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=1 )")
if len(sys.argv) > 1:
    method, user, password = sys.argv[1:]
    auth, token = GstRtspServer.RTSPAuth(), GstRtspServer.RTSPToken()
    token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, "viewer")
    if method == "digest":
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest(user, password, token)
    else:
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    factory.add_role_from_structure(Gst.Structure.from_string(f"viewer, {GstRtspServer.RTSP_PERM_MEDIA_FACTORY_ACCESS}=true, {GstRtspServer.RTSP_PERM_MEDIA_FACTORY_CONSTRUCT}=true;")[0])
server.get_mount_points().add_factory("/camera", factory)
server.attach(None)
print(f"rtsp://127.0.0.1:{server.get_bound_port()}/camera", flush=True)
GLib.MainLoop().run()
