"""The calls that crib makes of drivers."""

from __future__ import annotations

from crib.backends.volumes.csi.channel import DriverCall
from crib.stubs.csi.v1 import csi_pb2 as pb

GET_PLUGIN_INFO = DriverCall("Identity", "GetPluginInfo", pb.GetPluginInfoResponse)
GET_PLUGIN_CAPABILITIES = DriverCall("Identity", "GetPluginCapabilities", pb.GetPluginCapabilitiesResponse)
PROBE = DriverCall("Identity", "Probe", pb.ProbeResponse)

CONTROLLER_GET_CAPABILITIES = DriverCall(
    "Controller", "ControllerGetCapabilities", pb.ControllerGetCapabilitiesResponse
)
CREATE_VOLUME = DriverCall("Controller", "CreateVolume", pb.CreateVolumeResponse)
DELETE_VOLUME = DriverCall("Controller", "DeleteVolume", pb.DeleteVolumeResponse)
CONTROLLER_PUBLISH = DriverCall("Controller", "ControllerPublishVolume", pb.ControllerPublishVolumeResponse)
CONTROLLER_UNPUBLISH = DriverCall(
    "Controller", "ControllerUnpublishVolume", pb.ControllerUnpublishVolumeResponse
)
VALIDATE = DriverCall("Controller", "ValidateVolumeCapabilities", pb.ValidateVolumeCapabilitiesResponse)
CONTROLLER_EXPAND = DriverCall("Controller", "ControllerExpandVolume", pb.ControllerExpandVolumeResponse)
CREATE_SNAPSHOT = DriverCall("Controller", "CreateSnapshot", pb.CreateSnapshotResponse)
DELETE_SNAPSHOT = DriverCall("Controller", "DeleteSnapshot", pb.DeleteSnapshotResponse)

NODE_GET_CAPABILITIES = DriverCall("Node", "NodeGetCapabilities", pb.NodeGetCapabilitiesResponse)
NODE_GET_INFO = DriverCall("Node", "NodeGetInfo", pb.NodeGetInfoResponse)
NODE_STAGE = DriverCall("Node", "NodeStageVolume", pb.NodeStageVolumeResponse)
NODE_UNSTAGE = DriverCall("Node", "NodeUnstageVolume", pb.NodeUnstageVolumeResponse)
NODE_PUBLISH = DriverCall("Node", "NodePublishVolume", pb.NodePublishVolumeResponse)
NODE_UNPUBLISH = DriverCall("Node", "NodeUnpublishVolume", pb.NodeUnpublishVolumeResponse)
NODE_STATS = DriverCall("Node", "NodeGetVolumeStats", pb.NodeGetVolumeStatsResponse)
NODE_EXPAND = DriverCall("Node", "NodeExpandVolume", pb.NodeExpandVolumeResponse)
